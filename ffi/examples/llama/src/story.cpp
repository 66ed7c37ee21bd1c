#include "story.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

// The bytes at the end of a text that begin a character and do not end it.
static std::size_t unfinished(const std::string &text) {
    for (std::size_t back = 1; back <= 3 && back <= text.size(); back++) {
        const auto byte = static_cast<unsigned char>(text[text.size() - back]);
        if (byte < 0x80) return 0;
        if (byte >= 0xc0) return back < (byte < 0xe0 ? 2u : byte < 0xf0 ? 3u : 4u) ? back : 0;
    }
    return 0;
}

// The longest end of a text that begins one of the stops.
static std::size_t may_stop(const std::string &text, const std::vector<std::string> &stops) {
    std::size_t most = 0;
    for (const std::string &stop : stops)
        for (std::size_t n = std::min(stop.size(), text.size()); n > most; n--)
            if (text.compare(text.size() - n, n, stop, 0, n) == 0) most = n;
    return most;
}

Teller::Teller(const Weights &weights, int block, const strata::model &sae, const strata::watch *listed, Setup setup)
    : weights_(weights), listed_(listed), ctx_(sae),
      hook_(block,
            [this](strata_rows_mut rows) {
                if (edits_ && !edits_->empty()) ctx_.steer(rows, *edits_);
                if (!looks_) return;
                listed_ ? ctx_.encode(*listed_, strata::rows(rows), codes_[0], codes_[1])
                        : ctx_.encode(strata::rows(rows), codes_[0], codes_[1]);
            }),
      host_(weights, &hook_, setup) {}

Told Teller::told(llama_token token, std::size_t row, std::size_t most) const {
    Told out{token, weights_.shown(token), "", {}};
    for (int level = 0; looks_ && level < 2; level++) {
        auto &latents = out.latents[level];
        latents.assign(codes_[level][row].begin(), codes_[level][row].end());
        std::sort(latents.begin(), latents.end(), [](auto a, auto b) { return a.value > b.value; });
        latents.resize(std::min(latents.size(), most));
    }
    return out;
}

Ending Teller::tell(const Wish &wish, const std::function<void(const Told &)> &prompt, const std::function<bool(const Told &)> &next) {
    edits_ = &wish.edits;
    looks_ = wish.most_latents > 0;
    host_.restart(wish.luck);
    const std::vector<llama_token> tokens = weights_.tokens(wish.prompt, true);
    n_prompt_ = tokens.size(), n_new_ = 0;
    if (tokens.empty() || tokens.size() > host_.room())
        throw std::invalid_argument("prompt: expected 1 to " + std::to_string(host_.room()) + " tokens, found " + std::to_string(tokens.size()));
    host_.run(tokens);
    for (std::size_t i = 0; i < tokens.size(); i++) prompt(told(tokens[i], i, wish.most_latents));

    std::string held;  // what may yet be a part of a character, or of a stop
    while (n_new_ < wish.most_tokens) {
        const llama_token token = host_.next();
        if (weights_.ends(token)) {
            // What was held is all that there will be.
            if (!held.empty() && !next({token, weights_.shown(token), held, {}})) return Ending::gone;
            return Ending::stop;
        }
        n_new_++;
        held += weights_.text(token);
        std::size_t end = std::string::npos;
        for (const std::string &stop : wish.stops) end = std::min(end, held.find(stop));
        const bool stops = end != std::string::npos, is_last = stops || n_new_ == wish.most_tokens || host_.room() == 0;
        const bool is_known = host_.room() > 0 && !stops;
        if (is_known) host_.run({token});
        const bool looked = std::exchange(looks_, looks_ && is_known);
        Told one = told(token, 0, wish.most_latents);
        looks_ = looked;
        const std::size_t keep = is_last ? 0 : std::max(unfinished(held), may_stop(held, wish.stops));
        one.text = held.substr(0, stops ? end : held.size() - keep);
        held.erase(0, one.text.size());
        if (!next(one)) return Ending::gone;
        if (stops) return Ending::stop;
        if (is_last) return Ending::length;
    }
    return Ending::length;
}
