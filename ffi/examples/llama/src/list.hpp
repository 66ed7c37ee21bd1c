// A watch-list in a file: a latent per line, as 1:109 or 2:33, and after a space the name that it is shown by. Lines that
// begin with # and empty ones say nothing.
#pragma once

#include <strata.hpp>

#include <cstdint>
#include <map>
#include <string>
#include <utility>

// The names of latents by (level, latent); empty where a latent has none.
using Names = std::map<std::pair<std::uint32_t, std::uint32_t>, std::string>;

// Reads a file. Throws with its line for what is no latent, or is there twice.
Names read_list(const std::string &path);

// The watch-list of these latents. Throws for those that the model does not have.
strata::watch watch_of(const strata::model &sae, const Names &names);
