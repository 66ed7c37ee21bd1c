// What a token costs in llama.cpp alone, with the hook, and with Strata at work in it: all ways in turn, token by token.
#include "arguments.hpp"
#include "commands.hpp"
#include "list.hpp"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <optional>
#include <stdexcept>

namespace {
// One way to run the model.
struct Way {
    const char *name;
    std::optional<Hook> hook;
    std::optional<Host> host;
    std::vector<double> one_us, window_us;  // per token: each of those that came one at a time; of each window at once
    double inside = 0;                      // seconds in the hook since the last evaluation began
    std::vector<double> one_inside_us, window_inside_us;
};
}  // namespace

// Processor time of all threads; other programs on the machine lengthen the time on the clock much more.
static double seconds() {
    timespec t{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

static double median(std::vector<double> v) {
    std::nth_element(v.begin(), v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2), v.end());
    return v[v.size() / 2];
}

// Microseconds per token of one evaluation, kept where it is one that counts.
static void cost(Way &way, const std::vector<llama_token> &tokens, bool keep, std::vector<double> &us, std::vector<double> &inside_us) {
    way.inside = 0;
    const double start = seconds();
    way.host->run(tokens);
    const double a_token = 1e6 / static_cast<double>(tokens.size()), whole = seconds() - start;
    if (keep) us.push_back(whole * a_token), inside_us.push_back(way.inside * a_token);
}

// A hook that measures what is done in it.
static void hook(Way &way, int layer, Hook::Use use) {
    way.hook.emplace(layer, [&way, use = std::move(use)](strata_rows_mut rows) {
        const double start = seconds();
        use(rows);
        way.inside += seconds() - start;
    });
}

// How much more than the first way another one takes, in percent: the median over tokens that were computed one after the other.
static double more(const std::vector<double> &way, const std::vector<double> &alone) {
    std::vector<double> differences;
    for (std::size_t i = 0; i < way.size(); i++) differences.push_back(way[i] - alone[i]);
    return 100 * median(differences) / median(alone);
}

// Latents of both levels at equal distances, so many in all.
static Names some_latents(const strata_model_info &info, std::size_t n) {
    Names names;
    const std::size_t of2 = std::min(info.f2, n / 2), of1 = std::min(info.f1, n - of2);
    for (std::size_t i = 0; i < of1; i++) names[{1, static_cast<std::uint32_t>(i * info.f1 / of1)}] = "";
    for (std::size_t i = 0; i < of2; i++) names[{2, static_cast<std::uint32_t>(i * info.f2 / of2)}] = "";
    return names;
}

// The rows of a layer, kept.
static std::vector<float> rows_of(const Weights &weights, int layer, const std::vector<llama_token> &tokens, Setup setup) {
    std::vector<float> out;
    Hook hook(layer, [&](strata_rows_mut rows) {
        if (rows.dtype != STRATA_DTYPE_F32) throw std::runtime_error("expected rows of f32");
        out.resize(rows.n_rows * rows.d);
        for (std::size_t i = 0; i < rows.n_rows; i++)
            std::memcpy(&out[i * rows.d], static_cast<char *>(rows.data) + i * rows.row_stride_bytes, rows.d * sizeof(float));
    });
    Host(weights, &hook, setup).run(tokens);
    return out;
}

// Microseconds per row of strata_encode by itself, `at_once` rows per call. The codes are kept from call to call, as a host keeps
// them: where they are too small, strata::ctx encodes twice.
static double encode_cost(strata::ctx &ctx, const std::vector<float> &rows, std::size_t d, std::size_t at_once, strata::codes &parents,
                          strata::codes &children) {
    const std::size_t n = rows.size() / d;
    const double start = seconds();
    for (std::size_t from = 0; from < n; from += at_once) ctx.encode(strata::rows(&rows[from * d], at_once, d), parents, children);
    return (seconds() - start) * 1e6 / static_cast<double>(n);
}

bool timing(const Words &words) {
    const Arguments arguments(words, {"--list", "--context", "--rounds", "--singles", "--threads"});
    if (arguments.size() != 4) return false;
    const Weights weights(arguments.word(0));
    const int layer = block_of(arguments.word(1), weights);
    const strata::model sae = sae_of(arguments.word(2), weights);
    const strata_model_info info = sae.info();
    const Setup setup{weights.context(arguments.number("--context", 128)), arguments.number("--threads", 1)};
    const std::size_t rounds = std::max<std::size_t>(arguments.number("--rounds", 15), 1);
    std::vector<llama_token> tokens = weights.tokens(arguments.word(3), true);
    tokens.resize(std::min(tokens.size(), setup.context));
    const std::size_t singles = weights.generates() ? std::min(arguments.number("--singles", 64), tokens.size()) : 0;
    const Names names = arguments.has("--list") ? read_list(arguments.text("--list", "")) : some_latents(info, 64);
    const strata::watch listed = watch_of(sae, names);

    strata::ctx ctx(sae, static_cast<std::uint32_t>(setup.threads));
    strata::codes parents, children;
    const std::vector<strata_edit> add = {{1, 0, 0.0f, STRATA_EDIT_ADD}};
    std::vector<Way> ways(5);
    ways[0].name = "llama.cpp alone";
    ways[1].name = "with the hook";
    ways[1].hook.emplace(layer, nullptr);
    ways[2].name = "with a watch-list";
    hook(ways[2], layer, [&](strata_rows_mut rows) { ctx.encode(listed, strata::rows(rows), parents, children); });
    ways[3].name = "with strata_encode";
    hook(ways[3], layer, [&](strata_rows_mut rows) { ctx.encode(strata::rows(rows), parents, children); });
    ways[4].name = "with strata_steer";
    hook(ways[4], layer, [&](strata_rows_mut rows) { ctx.steer(rows, add); });
    for (Way &way : ways) way.host.emplace(weights, way.hook ? &*way.hook : nullptr, setup);

    const std::vector<float> rows = rows_of(weights, layer, tokens, setup);
    std::vector<double> encode_one, encode_window;
    for (std::size_t round = 0; round <= rounds; round++) {  // the first warms up
        const double one = encode_cost(ctx, rows, info.d, 1, parents, children);
        const double window = encode_cost(ctx, rows, info.d, tokens.size(), parents, children);
        if (round > 0) encode_one.push_back(one), encode_window.push_back(window);
        for (Way &way : ways) way.host->restart();
        for (std::size_t i = 0; i < singles; i++)
            for (std::size_t k = 0; k < ways.size(); k++) {
                Way &way = ways[(i + k) % ways.size()];
                cost(way, {tokens[i]}, round > 0, way.one_us, way.one_inside_us);
            }
        for (std::size_t k = 0; k < ways.size(); k++) {
            Way &way = ways[(round + k) % ways.size()];
            way.host->restart();
            cost(way, tokens, round > 0, way.window_us, way.window_inside_us);
        }
    }
    std::printf("d %zu, %zu + %zu latents, %zu of them on the watch-list; %zu windows; microseconds of processor time per token, how much\n"
                "more than llama.cpp alone, and the share that passes in the hook\n",
                info.d, info.f1, info.f2, names.size(), rounds);
    std::printf("%-20s %30s %30s\n", "", singles ? "one at a time" : "", (std::to_string(tokens.size()) + " at once").c_str());
    for (const Way &way : ways) {
        std::printf("%-20s ", way.name);
        const auto print = [](const std::vector<double> &us, const std::vector<double> &alone, const std::vector<double> &inside) {
            if (us.empty()) std::printf("%30s ", "");
            else if (&us == &alone) std::printf("%12.1f %17s ", median(us), "");
            else std::printf("%12.1f %+8.2f%% %6.3f%% ", median(us), more(us, alone), 100 * median(inside) / median(alone));
        };
        print(way.one_us, ways[0].one_us, way.one_inside_us);
        print(way.window_us, ways[0].window_us, way.window_inside_us);
        std::printf("\n");
    }
    std::printf("%-20s %12.1f %17s %12.1f\n", "strata_encode itself", median(encode_one), "", median(encode_window));
    return true;
}
