#include "arguments.hpp"

#include <charconv>
#include <stdexcept>

std::size_t number(const std::string &word) {
    std::size_t n = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), n);
    if (error != std::errc() || end != word.data() + word.size()) throw std::runtime_error(word + ": expected a whole number");
    return n;
}

Arguments::Arguments(const std::vector<std::string> &words, const std::set<std::string> &takes, const std::set<std::string> &flags) {
    for (std::size_t i = 0; i < words.size(); i++) {
        const std::string &word = words[i];
        if (word.compare(0, 2, "--") != 0) {
            words_.push_back(word);
        } else if (flags.count(word)) {
            options_[word] = "";
        } else if (!takes.count(word)) {
            throw std::runtime_error(word + ": this command has no such option");
        } else if (i + 1 == words.size()) {
            throw std::runtime_error(word + ": a value must follow");
        } else {
            options_[word] = words[++i];
        }
    }
}

std::string Arguments::text(const std::string &option, const std::string &otherwise) const {
    const auto found = options_.find(option);
    return found == options_.end() ? otherwise : found->second;
}

std::size_t Arguments::number(const std::string &option, std::size_t otherwise) const {
    const auto found = options_.find(option);
    return found == options_.end() ? otherwise : ::number(found->second);
}

int block_of(const std::string &hook, const Weights &weights) {
    std::string digits = hook;
    const std::string resid_post = ".hook_resid_post";
    for (const char *before : {"blocks.", "resid_post.", "model.layers."})
        if (digits.rfind(before, 0) == 0) digits.erase(0, std::string(before).size());
    if (digits.size() > resid_post.size() && digits.compare(digits.size() - resid_post.size(), resid_post.size(), resid_post) == 0)
        digits.erase(digits.size() - resid_post.size());
    if (digits.empty() || digits.find_first_not_of("0123456789") != std::string::npos)
        throw std::runtime_error(hook + ": expected a block, as 14 or blocks.14.hook_resid_post; llama.cpp gives its output alone");
    const std::size_t block = number(digits), n = static_cast<std::size_t>(weights.layers());
    if (block >= n) throw std::runtime_error(hook + ": the model has blocks 0 to " + std::to_string(n - 1));
    return static_cast<int>(block);
}

strata::model sae_of(const std::string &run, const Weights &weights) {
    strata::model sae(run);
    const std::size_t d = sae.info().d, width = static_cast<std::size_t>(weights.width());
    if (d != width)
        throw std::runtime_error(run + ": expected rows of " + std::to_string(width) + " numbers, as the model has, found " + std::to_string(d));
    return sae;
}
