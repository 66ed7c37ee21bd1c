// A text through the model, and the activations after a block into a dump to train on.
#include "arguments.hpp"
#include "commands.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <stdexcept>

static std::string read(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error(path + ": cannot be read");
    return {std::istreambuf_iterator<char>(file), {}};
}

static strata_dtype dtype_of(const std::string &name) {
    if (name == "f32") return STRATA_DTYPE_F32;
    if (name == "f16") return STRATA_DTYPE_F16;
    if (name == "bf16") return STRATA_DTYPE_BF16;
    throw std::runtime_error(name + ": expected --dtype f32, f16 or bf16");
}

bool capture(const Words &words) {
    const Arguments arguments(words, {"--max-tokens", "--context", "--dtype", "--threads"}, {"--bos"});
    if (arguments.size() != 4) return false;
    const std::string &gguf = arguments.word(0), &out = arguments.word(3);
    const Weights weights(gguf);
    const int block = block_of(arguments.word(1), weights);
    const std::vector<llama_token> all = weights.tokens(read(arguments.word(2)), false);
    const std::size_t context = weights.context(arguments.number("--context", 0));

    // A model that embeds has a special token at either end of a window; these rows are left out, since a text has them once.
    // That of a BOS is kept and marked.
    std::vector<llama_token> before, after;
    if (!weights.generates()) {
        const std::vector<llama_token> ends = weights.tokens("", true);
        const auto half = ends.begin() + static_cast<std::ptrdiff_t>(ends.size() / 2);
        before.assign(ends.begin(), half), after.assign(half, ends.end());
    } else if (arguments.has("--bos")) {
        before = {weights.bos()};
    }
    const std::size_t left_out = weights.generates() ? 0 : before.size();
    if (context <= before.size() + after.size()) throw std::runtime_error("--context: the window has no room for text");
    const std::size_t length = context - before.size() - after.size(), rows_per_window = weights.generates() ? context : length;

    const std::string hook_name = "blocks." + std::to_string(block) + ".hook_resid_post";
    // The name alone: a path of this machine says nothing on another.
    const std::string name = gguf.substr(gguf.find_last_of("/\\") + 1);
    strata_dump_params params;
    strata_dump_params_init(&params);
    params.d = static_cast<std::size_t>(weights.width());
    params.dtype = dtype_of(arguments.text("--dtype", "f16"));
    params.context = static_cast<uint32_t>(rows_per_window);
    params.model = name.c_str();
    params.hook = hook_name.c_str();
    strata::dump dump(out, params);
    dump.set_vocab(weights.texts());
    dump.mark_special(weights.special());

    std::vector<llama_token> window;
    std::vector<uint32_t> tokens;
    Hook hook(block, [&](strata_rows_mut rows) {
        rows.data = static_cast<char *>(rows.data) + left_out * rows.row_stride_bytes;
        rows.n_rows = tokens.size();
        dump.append(strata::rows(rows), tokens.data());
    });
    hook.stop_there();
    Host host(weights, &hook, {context, arguments.number("--threads", 1)});
    const std::size_t most = arguments.number("--max-tokens", SIZE_MAX);
    const auto start = std::chrono::steady_clock::now();
    std::size_t n = 0;
    for (std::size_t from = 0; from + length <= all.size() && most - n >= rows_per_window; from += length, n += rows_per_window) {
        window = before;
        window.insert(window.end(), all.begin() + static_cast<std::ptrdiff_t>(from), all.begin() + static_cast<std::ptrdiff_t>(from + length));
        window.insert(window.end(), after.begin(), after.end());
        tokens.assign(window.begin() + static_cast<std::ptrdiff_t>(left_out), window.begin() + static_cast<std::ptrdiff_t>(left_out + rows_per_window));
        host.restart();
        host.run(window);
    }
    if (n == 0) throw std::runtime_error(arguments.word(2) + ": the text has " + std::to_string(all.size()) + " tokens, and a window " + std::to_string(length));
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    dump.close();
    std::printf("%zu rows of %d at %s, in windows of %zu, %.0f tokens/s: %s\n", n, weights.width(), hook_name.c_str(), rows_per_window,
                static_cast<double>(n) / seconds, out.c_str());
    return true;
}
