// The same prompt and the same luck, as the model is and with features added or set: what changes.
#include "arguments.hpp"
#include "commands.hpp"

#include <common.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <stdexcept>

// LEVEL:LATENT+STRENGTH adds, LEVEL:LATENT=STRENGTH sets.
static strata_edit edit_of(const std::string &word) {
    strata_edit edit{};
    char how = 0;
    if (std::sscanf(word.c_str(), "%u:%u%c%f", &edit.level, &edit.latent, &how, &edit.strength) != 4 || (how != '+' && how != '='))
        throw std::runtime_error(word + ": expected an edit as 1:109+6 or 2:33=0");
    edit.mode = how == '+' ? STRATA_EDIT_ADD : STRATA_EDIT_SET;
    return edit;
}

// One run.
struct Outcome {
    std::string text;
    std::vector<float> last;  // the scores after the prompt, or the embedding of it
};

static Outcome outcome(const Weights &weights, Host &host, const std::string &prompt, std::size_t n_new) {
    Outcome out{prompt, {}};
    host.run(weights.tokens(prompt, true));
    if (!weights.generates()) return out.last = host.embedding(), out;
    out.last = host.logits();
    for (std::size_t i = 0; i < n_new; i++) {
        const llama_token token = host.next();
        out.text += weights.text(token);
        if (i + 1 < n_new) host.run({token});
    }
    return out;
}

static float furthest(const std::vector<float> &a, const std::vector<float> &b) {
    float most = 0;
    for (std::size_t i = 0; i < a.size(); i++) most = std::max(most, std::fabs(a[i] - b[i]));
    return most;
}

static float cosine(const std::vector<float> &a, const std::vector<float> &b) {
    float ab = 0, aa = 0, bb = 0;
    for (std::size_t i = 0; i < a.size(); i++) ab += a[i] * b[i], aa += a[i] * a[i], bb += b[i] * b[i];
    return ab / std::sqrt(aa * bb);
}

// What llama.cpp can do of it alone: add one vector after a layer above the first. The vectors of layers 1 to `layer`.
static std::vector<float> control_vector(const Weights &weights, int layer, const strata::model &sae, const std::vector<strata_edit> &edits) {
    const auto d = static_cast<std::size_t>(weights.width());
    std::vector<float> vectors(d * static_cast<std::size_t>(layer));
    for (const strata_edit &edit : edits) {
        const std::vector<float> row = sae.decoder_row(edit.level, edit.latent);
        for (std::size_t j = 0; j < d; j++) vectors[static_cast<std::size_t>(layer - 1) * d + j] += edit.strength * row[j];
    }
    return vectors;
}

// The same from a file, by the reader of llama.cpp's own programs.
static std::vector<float> read_control_vector(const Weights &weights, const std::string &path) {
    const common_control_vector_data read = common_control_vector_load({{1.0f, path}});
    if (read.n_embd != weights.width())
        throw std::runtime_error(path + ": expected a control vector of width " + std::to_string(weights.width()) + ", found " + std::to_string(read.n_embd));
    return read.data;
}

static Outcome with_control_vector(const Weights &weights, Setup setup, const std::vector<float> &vectors, const std::string &prompt, std::size_t n_new) {
    Host control(weights, nullptr, setup);
    if (llama_set_adapter_cvec(control.get(), vectors.data(), vectors.size(), weights.width(), 1, weights.layers() - 1))
        throw std::runtime_error("llama.cpp does not take the control vector");
    return outcome(weights, control, prompt, n_new);
}

bool steer(const Words &words) {
    const Arguments arguments(words, {"--tokens", "--control-vector", "--context", "--threads"});
    if (arguments.size() < 5) return false;
    const Weights weights(arguments.word(0));
    const int layer = block_of(arguments.word(1), weights);
    const strata::model sae = sae_of(arguments.word(2), weights);
    const std::string &prompt = arguments.word(3);
    const std::size_t n_new = arguments.number("--tokens", 40);
    std::vector<strata_edit> edits;
    for (std::size_t i = 4; i < arguments.size(); i++) edits.push_back(edit_of(arguments.word(i)));
    const Setup setup{weights.context(arguments.number("--context", 0)), arguments.number("--threads", 1)};
    strata::ctx ctx(sae);
    Hook hook(layer, [&](strata_rows_mut rows) { ctx.steer(rows, edits); });
    Host plain(weights, nullptr, setup), steered(weights, &hook, setup);

    const Outcome before = outcome(weights, plain, prompt, n_new), after = outcome(weights, steered, prompt, n_new);
    if (!weights.generates()) {
        std::printf("cosine of the embeddings before and after: %.6f\n", static_cast<double>(cosine(before.last, after.last)));
        return true;
    }
    std::printf("--- as it is\n%s\n--- steered\n%s\n---\n", before.text.c_str(), after.text.c_str());
    std::printf("scores of the next token move by up to %.4f\n", static_cast<double>(furthest(before.last, after.last)));
    const bool only_adds = std::all_of(edits.begin(), edits.end(), [](const strata_edit &e) { return e.mode == STRATA_EDIT_ADD; });
    if (only_adds && layer > 0) {
        const Outcome same = with_control_vector(weights, setup, control_vector(weights, layer, sae, edits), prompt, n_new);
        std::printf("and with llama.cpp's own control vector are off by up to %.2e\n", static_cast<double>(furthest(after.last, same.last)));
    }
    if (arguments.has("--control-vector")) {
        const std::string path = arguments.text("--control-vector", "");
        const Outcome same = with_control_vector(weights, setup, read_control_vector(weights, path), prompt, n_new);
        std::printf("and with %s are off by up to %.2e\n", path.c_str(), static_cast<double>(furthest(after.last, same.last)));
    }
    return true;
}
