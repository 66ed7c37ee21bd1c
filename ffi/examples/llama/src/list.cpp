#include "list.hpp"

#include <cstdio>
#include <fstream>
#include <stdexcept>
#include <vector>

Names read_list(const std::string &path) {
    std::ifstream file(path);
    if (!file) throw std::runtime_error(path + ": cannot be read");
    Names names;
    std::string line;
    for (std::size_t number = 1; std::getline(file, line); number++) {
        const std::size_t first = line.find_first_not_of(" \t\r"), last = line.find_last_not_of(" \t\r");
        if (first == std::string::npos || line[first] == '#') continue;
        line = line.substr(first, last - first + 1);
        const std::string where = path + ": line " + std::to_string(number) + ": ";
        unsigned level = 0, latent = 0;
        int used = 0;
        if (std::sscanf(line.c_str(), "%1u:%9u%n", &level, &latent, &used) != 2 || (level != 1 && level != 2) ||
            (line[static_cast<std::size_t>(used)] != '\0' && line[static_cast<std::size_t>(used)] != ' ' && line[static_cast<std::size_t>(used)] != '\t'))
            throw std::runtime_error(where + "expected a latent, as 1:109 or 2:33 capital letters, found " + line);
        const std::size_t name = line.find_first_not_of(" \t", static_cast<std::size_t>(used));
        if (!names.emplace(std::make_pair(level, latent), name == std::string::npos ? "" : line.substr(name)).second)
            throw std::runtime_error(where + "expected each latent once, found " + line);
    }
    if (names.empty()) throw std::runtime_error(path + ": expected at least one latent, as 1:109, found none");
    return names;
}

strata::watch watch_of(const strata::model &sae, const Names &names) {
    std::vector<std::uint32_t> latents[2];
    for (const auto &[latent, name] : names) latents[latent.first - 1].push_back(latent.second);
    return strata::watch(sae, latents[0], latents[1]);
}
