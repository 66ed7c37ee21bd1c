// A text through the model, and the rows of a layer into a dump to train on.
#include "arguments.hpp"
#include "commands.hpp"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <stdexcept>

static std::string read(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error(path + ": cannot be read");
    return {std::istreambuf_iterator<char>(file), {}};
}

void capture(const Words &words) {
    const std::string &gguf = words.at(0), &text_file = words.at(2), &out = words.at(3);
    const int layer = static_cast<int>(number(words.at(1)));
    const std::size_t most = words.size() > 4 ? number(words[4]) : SIZE_MAX;
    const Weights weights(gguf);
    const std::vector<llama_token> all = weights.tokens(read(text_file), false);

    // A model that embeds has a special token at either end, whose rows are left out.
    const std::vector<llama_token> ends = weights.generates() ? std::vector<llama_token>{} : weights.tokens("", true);
    const std::size_t before = ends.size() / 2, length = weights.window() - ends.size();

    const std::string hook_name = "blocks." + std::to_string(layer) + ".hook_resid_post";
    strata_dump_params params;
    strata_dump_params_init(&params);
    params.d = static_cast<std::size_t>(weights.width());
    params.context = static_cast<uint32_t>(length);
    params.model = gguf.c_str();
    params.hook = hook_name.c_str();
    strata::dump dump(out, params);
    dump.set_vocab(weights.texts());

    std::vector<llama_token> window;
    std::vector<uint32_t> tokens;
    Hook hook(layer, [&](strata_rows_mut rows) {
        rows.data = static_cast<char *>(rows.data) + before * rows.row_stride_bytes;
        rows.n_rows = tokens.size();
        dump.append(strata::rows(rows), tokens.data());
    });
    Host host(weights, &hook);
    std::size_t n = 0;
    for (std::size_t from = 0; from + length <= all.size() && n + length <= most; from += length, n += length) {
        tokens.assign(all.begin() + static_cast<std::ptrdiff_t>(from), all.begin() + static_cast<std::ptrdiff_t>(from + length));
        window.assign(ends.begin(), ends.begin() + static_cast<std::ptrdiff_t>(before));
        window.insert(window.end(), tokens.begin(), tokens.end());
        window.insert(window.end(), ends.begin() + static_cast<std::ptrdiff_t>(before), ends.end());
        host.restart();
        host.run(window);
    }
    dump.close();
    std::printf("%zu rows of %d after layer %d, in windows of %zu tokens: %s\n", n, weights.width(), layer, length, out.c_str());
}
