// From the words of the command line.
#pragma once

#include "host.hpp"

#include <string>

// A whole number from 0 on.
std::size_t number(const std::string &word);

// The SAE of a run, if its rows are as wide as those of the model.
strata::model sae_of(const std::string &run, const Weights &weights);
