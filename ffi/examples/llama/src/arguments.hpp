// The words of the command line.
#pragma once

#include "host.hpp"

#include <map>
#include <set>
#include <string>
#include <vector>

// A whole number from 0 on.
std::size_t number(const std::string &word);

// The words of a command: those in order, and the options, which may stand anywhere.
class Arguments {
  public:
    // takes: options with a value; flags: those without. Throws for an option that is in neither.
    Arguments(const std::vector<std::string> &words, const std::set<std::string> &takes, const std::set<std::string> &flags = {});

    std::size_t size() const { return words_.size(); }
    const std::string &word(std::size_t i) const { return words_.at(i); }
    bool has(const std::string &option) const { return options_.count(option) > 0; }
    std::string text(const std::string &option, const std::string &otherwise) const;
    std::size_t number(const std::string &option, std::size_t otherwise) const;

  private:
    std::vector<std::string> words_;
    std::map<std::string, std::string> options_;
};

// The block of a hook point after it: 14, blocks.14.hook_resid_post, resid_post.14 or model.layers.14.
int block_of(const std::string &hook, const Weights &weights);

// The SAE of a run, if its rows are as wide as those of the model.
strata::model sae_of(const std::string &run, const Weights &weights);
