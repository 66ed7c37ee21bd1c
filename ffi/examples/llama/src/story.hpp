// Text as it is generated, token by token, each with the latents that are active on it: what `serve` sends.
#pragma once

#include "host.hpp"
#include "list.hpp"

#include <functional>
#include <optional>
#include <string>
#include <vector>

// What is asked for.
struct Wish {
    std::string prompt;
    std::size_t most_tokens = 16;
    Luck luck{1.0f, 1};
    std::vector<std::string> stops;  // texts that end it, and are left out
    std::vector<strata_edit> edits;  // made on every token
    std::size_t most_latents = 0;    // of each level for each token, the strongest
};

// A token with its latents.
struct Told {
    llama_token token;
    std::string shown;  // spaces and line breaks made visible
    std::string text;   // whole characters that can be shown now; those of several tokens where one has a part of a character
    std::vector<strata::codes::entry> latents[2];
};

enum class Ending { stop, length, gone };

// A model with an SAE on one of its layers. One story at a time.
class Teller {
  public:
    // listed: the only latents that are looked for; all of them without. What is given outlives the teller.
    Teller(const Weights &weights, int block, const strata::model &sae, const strata::watch *listed, Setup setup);

    // Calls `prompt(token)` for the tokens of the prompt, with no text, and `next(token)` for those that follow, until it returns
    // false: then the reader is gone, and the ending is `gone`. Latents are those of the edited rows, which the layers above
    // read; a token that ends the text at a stop, or fills the context, does not go through the model and has none. Throws
    // std::invalid_argument for a prompt that does not fit, and strata::error for edits that the model refuses.
    Ending tell(const Wish &wish, const std::function<void(const Told &)> &prompt, const std::function<bool(const Told &)> &next);

    std::size_t prompt_tokens() const { return n_prompt_; }
    std::size_t new_tokens() const { return n_new_; }

  private:
    Told told(llama_token token, std::size_t row, std::size_t most) const;

    const Weights &weights_;
    const strata::watch *listed_;
    strata::ctx ctx_;
    strata::codes codes_[2];
    const std::vector<strata_edit> *edits_ = nullptr;
    bool looks_ = false;
    Hook hook_;
    Host host_;
    std::size_t n_prompt_ = 0, n_new_ = 0;
};
