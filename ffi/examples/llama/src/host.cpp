#include "host.hpp"

#include <algorithm>
#include <cstdio>
#include <stdexcept>

static constexpr std::size_t LONGEST_WINDOW = 128;

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

std::size_t Weights::window() const {
    return std::min<std::size_t>(LONGEST_WINDOW, static_cast<std::size_t>(llama_model_n_ctx_train(get())));
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
    char piece[256];
    const int n = llama_token_to_piece(vocab_, token, piece, sizeof piece, 0, true);
    return n < 0 ? std::string("?") : std::string(piece, static_cast<std::size_t>(n));
}

std::vector<std::string> Weights::texts() const {
    std::vector<std::string> out;
    for (llama_token token = 0; token < llama_vocab_n_tokens(vocab_); token++) out.push_back(text(token));
    return out;
}

std::string Weights::shown(llama_token token) const {
    std::string out;
    for (char c : text(token)) out += c == '\n' ? "\u23ce" : c == ' ' ? "\u00b7" : std::string(1, c);
    return out;
}

Host::Host(const Weights &weights, Hook *hook) : weights_(weights), hook_(hook) {
    llama_context_params params = llama_context_default_params();
    // One batch is one graph, so that the hook sees all of its rows at once.
    params.n_ctx = params.n_batch = params.n_ubatch = static_cast<uint32_t>(weights.window());
    params.n_threads = params.n_threads_batch = 1;
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

void Host::restart() {
    position_ = 0;
    if (llama_memory_t memory = llama_get_memory(get())) llama_memory_clear(memory, true);
    sampler_.reset(llama_sampler_chain_init(llama_sampler_chain_default_params()));
    llama_sampler_chain_add(sampler_.get(), llama_sampler_init_temp(0.8f));
    llama_sampler_chain_add(sampler_.get(), llama_sampler_init_dist(1));
}

void Host::run(const std::vector<llama_token> &tokens) {
    if (!weights_.generates()) position_ = 0;
    if (tokens.empty() || position_ + tokens.size() > weights_.window())
        throw std::runtime_error("expected a text of 1 to " + std::to_string(weights_.window()) + " tokens");
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
