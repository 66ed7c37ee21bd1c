#include "host.hpp"

#include <algorithm>
#include <cstdio>
#include <stdexcept>

static constexpr std::size_t USUAL_CONTEXT = 1024;

Weights::Weights(const std::string &path) {
    llama_log_set([](ggml_log_level level, const char *text, void *) { if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr); }, nullptr);
    llama_backend_init();
    llama_model_params params = llama_model_default_params();
    params.n_gpu_layers = 0;
    model_.reset(llama_model_load_from_file(path.c_str(), params));
    if (!model_) throw std::runtime_error(path + ": llama.cpp cannot load it");
    vocab_ = llama_model_get_vocab(model_.get());
}

bool Weights::generates() const {
    char value[8] = "";
    char arch[64] = "";
    llama_model_meta_val_str(get(), "general.architecture", arch, sizeof arch);
    llama_model_meta_val_str(get(), (std::string(arch) + ".attention.causal").c_str(), value, sizeof value);
    return std::string(value) != "false";
}

std::size_t Weights::context(std::size_t asked) const {
    const auto most = static_cast<std::size_t>(llama_model_n_ctx_train(get()));
    if (asked > most) throw std::runtime_error("--context " + std::to_string(asked) + ": the model takes " + std::to_string(most) + " tokens");
    return asked ? asked : std::min(USUAL_CONTEXT, most);
}

std::vector<llama_token> Weights::tokens(const std::string &text, bool special) const {
    const auto length = static_cast<int32_t>(text.size());
    std::vector<llama_token> out(text.size() + 8);
    const int n = llama_tokenize(vocab_, text.data(), length, out.data(), static_cast<int32_t>(out.size()), special, false);
    if (n < 0) throw std::runtime_error("llama.cpp cannot tokenize the text");
    out.resize(static_cast<std::size_t>(n));
    for (llama_token token : out)
        if (token < 0 || token >= llama_vocab_n_tokens(vocab_)) throw std::runtime_error("the text has characters that the vocabulary lacks");
    return out;
}

std::string Weights::text(llama_token token) const {
    std::string piece(64, '\0');
    int n = llama_token_to_piece(vocab_, token, piece.data(), static_cast<int32_t>(piece.size()), 0, true);
    if (n < 0) {  // that many bytes
        piece.resize(static_cast<std::size_t>(-n));
        n = llama_token_to_piece(vocab_, token, piece.data(), static_cast<int32_t>(piece.size()), 0, true);
    }
    piece.resize(static_cast<std::size_t>(std::max(n, 0)));
    return piece;
}

std::vector<uint32_t> Weights::special() const {
    std::vector<uint32_t> out;
    for (llama_token token = 0; token < llama_vocab_n_tokens(vocab_); token++)
        if (llama_vocab_is_control(vocab_, token)) out.push_back(static_cast<uint32_t>(token));
    return out;
}

llama_token Weights::bos() const {
    const llama_token token = llama_vocab_bos(vocab_);
    if (token == LLAMA_TOKEN_NULL) throw std::runtime_error("--bos: the model has no token that begins a text");
    return token;
}

std::vector<std::string> Weights::texts() const {
    std::vector<std::string> out;
    for (llama_token token = 0; token < llama_vocab_n_tokens(vocab_); token++) out.push_back(text(token));
    return out;
}

// The bytes of the character that begins at `at`; 0 if none does.
static std::size_t character(const std::string &text, std::size_t at) {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    const std::size_t n = byte(at) < 0x80 ? 1 : byte(at) < 0xc2 ? 0 : byte(at) < 0xe0 ? 2 : byte(at) < 0xf0 ? 3 : byte(at) < 0xf5 ? 4 : 0;
    if (at + n > text.size()) return 0;
    for (std::size_t i = at + 1; i < at + n; i++)
        if (byte(i) < 0x80 || byte(i) > 0xbf) return 0;
    return n;
}

std::string Weights::shown(llama_token token) const {
    const std::string whole = text(token);
    std::string out;
    for (std::size_t at = 0, n; at < whole.size(); at += std::max<std::size_t>(n, 1)) {
        n = character(whole, at);
        const auto byte = static_cast<unsigned char>(whole[at]);
        char code[8];
        std::snprintf(code, sizeof code, "\\x%02X", byte);
        out += byte == '\n' ? "\u23ce" : byte == ' ' ? "\u00b7" : n == 0 || byte < 0x20 || byte == 0x7f ? code : whole.substr(at, n);
    }
    return out;
}

Host::Host(const Weights &weights, Hook *hook, Setup setup) : weights_(weights), hook_(hook), setup_(setup) {
    llama_context_params params = llama_context_default_params();
    // One batch is one graph, so that the hook sees all of its rows at once.
    params.n_ctx = params.n_batch = params.n_ubatch = static_cast<uint32_t>(setup.context);
    params.n_threads = params.n_threads_batch = static_cast<int32_t>(setup.threads);
    params.embeddings = !weights.generates();
    params.pooling_type = LLAMA_POOLING_TYPE_NONE;
    // The arithmetic of the model as it was published: f16 keys and values, the default, move the rows by 3e-4.
    params.type_k = params.type_v = GGML_TYPE_F32;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    params.no_perf = true;
    if (hook) params.cb_eval = Hook::on_node, params.cb_eval_user_data = hook;
    context_.reset(llama_init_from_model(weights.get(), params));
    if (!context_) throw std::runtime_error("llama.cpp cannot make a context");
    restart();
}

void Host::restart(Luck luck) {
    position_ = 0;
    if (llama_memory_t memory = llama_get_memory(get())) llama_memory_clear(memory, true);
    sampler_.reset(llama_sampler_chain_init(llama_sampler_chain_default_params()));
    if (luck.temperature == 0) return llama_sampler_chain_add(sampler_.get(), llama_sampler_init_greedy());
    llama_sampler_chain_add(sampler_.get(), llama_sampler_init_temp(luck.temperature));
    llama_sampler_chain_add(sampler_.get(), llama_sampler_init_dist(luck.seed));
}

void Host::run(const std::vector<llama_token> &tokens) {
    if (!weights_.generates()) position_ = 0;
    if (tokens.empty() || position_ + tokens.size() > setup_.context)
        throw std::runtime_error("expected a text of 1 to " + std::to_string(setup_.context) + " tokens");
    const auto n = static_cast<int32_t>(tokens.size());
    llama_batch batch = llama_batch_init(n, 0, 1);
    batch.n_tokens = n;
    for (int32_t i = 0; i < n; i++) {
        batch.token[i] = tokens[static_cast<std::size_t>(i)];
        batch.pos[i] = static_cast<llama_pos>(position_) + i;
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i] = 1;  // or the last layer has the rows of those tokens alone
    }
    const int32_t status = llama_get_memory(get()) ? llama_decode(get(), batch) : llama_encode(get(), batch);
    llama_batch_free(batch);
    if (status) throw std::runtime_error("llama.cpp cannot evaluate the batch: " + std::to_string(status));
    if (hook_) hook_->check();
    position_ += tokens.size();
    last_run_ = tokens.size();
}

llama_token Host::next() { return llama_sampler_sample(sampler_.get(), get(), -1); }

std::vector<float> Host::logits() const {
    const float *scores = llama_get_logits_ith(get(), -1);
    return {scores, scores + llama_vocab_n_tokens(llama_model_get_vocab(weights_.get()))};
}

std::vector<float> Host::embedding() const {
    const auto d = static_cast<std::size_t>(weights_.width());
    std::vector<float> mean(d);
    for (std::size_t i = 0; i < last_run_; i++) {
        const float *row = llama_get_embeddings_ith(get(), static_cast<int32_t>(i));
        for (std::size_t j = 0; j < d; j++) mean[j] += row[j] / static_cast<float>(last_run_);
    }
    return mean;
}
