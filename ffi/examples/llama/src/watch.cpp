// The latents of each token: active parents, each with its children, while the model generates or embeds.
#include "arguments.hpp"
#include "commands.hpp"
#include "list.hpp"

#include <algorithm>
#include <cstdio>
#include <optional>
#include <stdexcept>

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

// A line per token with the listed latents that are active on it: level:latent=activation, with their names in parentheses.
static void print_listed(const Names &names, const strata::codes (&codes)[2], std::size_t row) {
    for (std::uint32_t level : {1u, 2u})
        for (auto [latent, value] : codes[level - 1][row]) {
            std::printf(" %u:%u=%.2f", level, latent, static_cast<double>(value));
            const std::string &name = names.at({level, latent});
            if (!name.empty()) std::printf("(%s)", name.c_str());
        }
    std::printf("\n");
}

bool watch(const Words &words) {
    const Arguments arguments(words, {"--tokens", "--most", "--list", "--context", "--threads"});
    if (arguments.size() != 4) return false;
    const Weights weights(arguments.word(0));
    const int block = block_of(arguments.word(1), weights);
    const strata::model sae = sae_of(arguments.word(2), weights);
    const std::size_t n_new = arguments.number("--tokens", 0), most = arguments.number("--most", SIZE_MAX);
    Names names;
    std::optional<strata::watch> listed;
    if (arguments.has("--list")) {
        if (arguments.has("--most")) throw std::runtime_error("--most: --list names the latents, and all of them are shown");
        names = read_list(arguments.text("--list", ""));
        listed = watch_of(sae, names);
        const strata_watch_info info = listed->info();
        std::fprintf(stderr, "%zu latents are watched; %zu of level 1 and %zu of level 2 are computed for them\n", names.size(),
                     info.computed1, info.computed2);
    }
    strata::ctx ctx(sae);
    strata::codes codes[2];
    Hook hook(block, [&](strata_rows_mut rows) {
        listed ? ctx.encode(*listed, strata::rows(rows), codes[0], codes[1]) : ctx.encode(strata::rows(rows), codes[0], codes[1]);
    });
    Host host(weights, &hook, {weights.context(arguments.number("--context", 0)), arguments.number("--threads", 1)});

    // What the hook has encoded, a line a token: parent=activation (child=activation ...), the children of ROOT last.
    auto print = [&](const std::vector<llama_token> &tokens) {
        for (std::size_t i = 0; i < tokens.size(); i++) {
            std::printf("%s", weights.shown(tokens[i]).c_str());
            if (listed) {
                print_listed(names, codes, i);
                continue;
            }
            for (auto [parent, value] : strongest({codes[0][i].begin(), codes[0][i].end()}, most)) {
                std::printf(" %u=%.2f", parent, static_cast<double>(value));
                print_children(sae, codes[1][i], parent, most);
            }
            std::printf(" ROOT");
            print_children(sae, codes[1][i], STRATA_ROOT, most);
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
