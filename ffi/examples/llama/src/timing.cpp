// What a token costs in llama.cpp alone, with the hook, and with Strata at work in it. Medians.
#include "arguments.hpp"
#include "commands.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <optional>
#include <stdexcept>

static constexpr int ROUNDS = 31;

namespace {
// One way to run the model.
struct Way {
    const char *name;
    std::optional<Hook> hook;
    std::optional<Host> host;
    std::vector<double> one_us, window_us;  // a token: one at a time; all at once
};
}  // namespace

static double seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

static double median(std::vector<double> v) {
    std::nth_element(v.begin(), v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2), v.end());
    return v[v.size() / 2];
}

// Microseconds a token of `run` over `tokens`, `at_once` at a time.
static double cost(Host &host, const std::vector<llama_token> &tokens, std::size_t at_once) {
    host.restart();
    const double start = seconds();
    for (std::size_t from = 0; from < tokens.size(); from += at_once)
        host.run({tokens.begin() + static_cast<std::ptrdiff_t>(from), tokens.begin() + static_cast<std::ptrdiff_t>(from + at_once)});
    return (seconds() - start) * 1e6 / static_cast<double>(tokens.size());
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

// Microseconds a row of strata_encode by itself, `at_once` rows a call.
static double encode_cost(strata::ctx &ctx, const std::vector<float> &rows, std::size_t d, std::size_t at_once) {
    strata::codes parents, children;
    const std::size_t n = rows.size() / d;
    const double start = seconds();
    for (std::size_t from = 0; from < n; from += at_once) ctx.encode(strata::rows(&rows[from * d], at_once, d), parents, children);
    return (seconds() - start) * 1e6 / static_cast<double>(n);
}

bool timing(const Words &words) {
    const Arguments arguments(words, {"--context", "--threads"});
    if (arguments.size() != 4) return false;
    const Weights weights(arguments.word(0));
    const int layer = block_of(arguments.word(1), weights);
    const strata::model sae = sae_of(arguments.word(2), weights);
    const Setup setup{weights.context(arguments.number("--context", 128)), arguments.number("--threads", 1)};
    std::vector<llama_token> tokens = weights.tokens(arguments.word(3), true);
    tokens.resize(std::min(tokens.size(), setup.context));

    strata::ctx ctx(sae);
    strata::codes parents, children;
    const std::vector<strata_edit> add = {{1, 0, 0.0f, STRATA_EDIT_ADD}};
    std::vector<Way> ways(4);
    ways[0].name = "llama.cpp alone";
    ways[1].name = "with the hook";
    ways[1].hook.emplace(layer, nullptr);
    ways[2].name = "with strata_encode";
    ways[2].hook.emplace(layer, [&](strata_rows_mut rows) { ctx.encode(strata::rows(rows), parents, children); });
    ways[3].name = "with strata_steer";
    ways[3].hook.emplace(layer, [&](strata_rows_mut rows) { ctx.steer(rows, add); });
    for (Way &way : ways) way.host.emplace(weights, way.hook ? &*way.hook : nullptr, setup);

    const std::vector<float> rows = rows_of(weights, layer, tokens, setup);
    const strata_model_info info = sae.info();
    std::vector<double> encode_one, encode_window;
    for (int round = -1; round < ROUNDS; round++) {  // the first warms up
        const double one = encode_cost(ctx, rows, info.d, 1), window = encode_cost(ctx, rows, info.d, tokens.size());
        if (round >= 0) encode_one.push_back(one), encode_window.push_back(window);
        for (Way &way : ways) {
            const double one = weights.generates() ? cost(*way.host, tokens, 1) : 0, window = cost(*way.host, tokens, tokens.size());
            if (round >= 0) way.one_us.push_back(one), way.window_us.push_back(window);
        }
    }
    std::printf("d %zu, %zu + %zu latents, %zu tokens, microseconds a token\n", info.d, info.f1, info.f2, tokens.size());
    std::printf("%-20s %12s %12s\n", "", weights.generates() ? "one by one" : "", "all at once");
    for (const Way &way : ways) {
        std::printf("%-20s ", way.name);
        weights.generates() ? std::printf("%12.1f ", median(way.one_us)) : std::printf("%12s ", "");
        std::printf("%12.1f\n", median(way.window_us));
    }
    std::printf("%-20s %12.1f %12.1f\n", "strata_encode itself", median(encode_one), median(encode_window));
    return true;
}
