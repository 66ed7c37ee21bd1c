// The latents of each token: active parents, each with its children, while the model generates or embeds.
#include "arguments.hpp"
#include "commands.hpp"

#include <algorithm>
#include <cstdio>

using Entries = std::vector<strata::codes::entry>;

// The strongest of them, the first of which is the strongest.
static Entries strongest(Entries entries, std::size_t most) {
    std::sort(entries.begin(), entries.end(), [](auto a, auto b) { return a.value > b.value; });
    entries.resize(std::min(entries.size(), most));
    return entries;
}

// " (child=activation ...)", if there are any.
static void print_children(const strata::model &sae, strata::codes::row children, uint32_t of, std::size_t most) {
    Entries own;
    for (auto child : children)
        if (sae.parent(child.latent) == of) own.push_back(child);
    const char *before = " (";
    for (auto [child, value] : strongest(own, most)) {
        std::printf("%s%u=%.2f", before, child, static_cast<double>(value));
        before = " ";
    }
    if (!own.empty()) std::printf(")");
}

bool watch(const Words &words) {
    const Arguments arguments(words, {"--tokens", "--most", "--context", "--threads"});
    if (arguments.size() != 4) return false;
    const Weights weights(arguments.word(0));
    const int block = block_of(arguments.word(1), weights);
    const strata::model sae = sae_of(arguments.word(2), weights);
    const std::size_t n_new = arguments.number("--tokens", 0), most = arguments.number("--most", SIZE_MAX);
    strata::ctx ctx(sae);
    strata::codes parents, children;
    Hook hook(block, [&](strata_rows_mut rows) { ctx.encode(strata::rows(rows), parents, children); });
    Host host(weights, &hook, {weights.context(arguments.number("--context", 0)), arguments.number("--threads", 1)});

    // What the hook has encoded, a line a token: parent=activation (child=activation ...), the children of ROOT last.
    auto print = [&](const std::vector<llama_token> &tokens) {
        for (std::size_t i = 0; i < tokens.size(); i++) {
            std::printf("%s", weights.shown(tokens[i]).c_str());
            for (auto [parent, value] : strongest({parents[i].begin(), parents[i].end()}, most)) {
                std::printf(" %u=%.2f", parent, static_cast<double>(value));
                print_children(sae, children[i], parent, most);
            }
            std::printf(" ROOT");
            print_children(sae, children[i], STRATA_ROOT, most);
            std::printf("\n");
        }
    };
    std::vector<llama_token> tokens = weights.tokens(arguments.word(3), true);
    host.run(tokens);
    print(tokens);
    for (std::size_t i = 0; weights.generates() && i < n_new; i++) {
        tokens = {host.next()};
        host.run(tokens);
        print(tokens);
    }
    return true;
}
