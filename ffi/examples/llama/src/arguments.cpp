#include "arguments.hpp"

#include <charconv>
#include <stdexcept>

std::size_t number(const std::string &word) {
    std::size_t n = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), n);
    if (error != std::errc() || end != word.data() + word.size()) throw std::runtime_error(word + ": expected a whole number");
    return n;
}

strata::model sae_of(const std::string &run, const Weights &weights) {
    strata::model sae(run);
    const std::size_t d = sae.info().d, width = static_cast<std::size_t>(weights.width());
    if (d != width)
        throw std::runtime_error(run + ": expected rows of " + std::to_string(width) + " numbers, as the model has, found " + std::to_string(d));
    return sae;
}
