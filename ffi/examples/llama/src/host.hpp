// A small inference engine around llama.cpp: one sequence, on the CPU, with a hook or without.
#pragma once

#include "hook.hpp"

#include <llama.h>

#include <memory>
#include <string>
#include <vector>

template <auto Free> struct Freed {
    template <typename T> void operator()(T *p) const { Free(p); }
};

// A GGUF file.
class Weights {
  public:
    explicit Weights(const std::string &path);

    llama_model *get() const { return model_.get(); }
    // Predicts the next token; otherwise it embeds.
    bool generates() const;
    int width() const { return llama_model_n_embd(model_.get()); }
    int layers() const { return llama_model_n_layer(model_.get()); }
    // Tokens of a window: what is asked for, or 1,024 at most where 0 is. Throws where the model takes fewer.
    std::size_t context(std::size_t asked) const;

    // special: with those that the model wants around a text.
    std::vector<llama_token> tokens(const std::string &text, bool special) const;
    // The text of a token, line breaks and spaces made visible, and what is no character as its bytes.
    std::string shown(llama_token token) const;
    std::string text(llama_token token) const;
    // Of every token.
    std::vector<std::string> texts() const;
    // The tokens that are no text: beginnings, ends, padding.
    std::vector<uint32_t> special() const;
    // The token that begins a text. Throws where the model has none.
    llama_token bos() const;
    // Ends what is generated.
    bool ends(llama_token token) const { return llama_vocab_is_eog(vocab_, token); }

  private:
    std::unique_ptr<llama_model, Freed<llama_model_free>> model_;
    const llama_vocab *vocab_ = nullptr;
};

// How a host runs: tokens of the longest sequence, and threads.
struct Setup {
    std::size_t context, threads;
};

// How the next token is drawn: at temperature 0 it is the likeliest one.
struct Luck {
    float temperature = 0.8f;
    uint32_t seed = 1;
};

// A context of it.
class Host {
  public:
    // hook: may be null; outlives the host.
    Host(const Weights &weights, Hook *hook, Setup setup);

    llama_context *get() const { return context_.get(); }
    // Evaluates tokens: a model that generates goes on where it was, one that embeds takes them as a whole text.
    void run(const std::vector<llama_token> &tokens);
    // Forgets the sequence, and draws the tokens of the next one with this luck.
    void restart(Luck luck = {});
    // Draws the next token.
    llama_token next();
    // Tokens that still fit.
    std::size_t room() const { return setup_.context - position_; }
    // The scores of the next token.
    std::vector<float> logits() const;
    // The mean of the last layer over the tokens of the last run.
    std::vector<float> embedding() const;

  private:
    const Weights &weights_;
    Hook *hook_;
    Setup setup_;
    std::unique_ptr<llama_context, Freed<llama_free>> context_;
    std::unique_ptr<llama_sampler, Freed<llama_sampler_free>> sampler_;
    std::size_t position_ = 0, last_run_ = 0;
};
