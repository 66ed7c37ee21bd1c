// llama.cpp with Strata attached to one layer.
#include "commands.hpp"

#include <strata.h>

#include <cstdio>
#include <exception>
#include <functional>
#include <map>

static const char USAGE[] =
    "usage: strata-llama capture MODEL.gguf LAYER TEXT.txt DUMP [ROWS]             rows of a layer, to train on\n"
    "       strata-llama watch   MODEL.gguf LAYER RUN PROMPT [NEW-TOKENS [MOST]]  which features fire on each token\n"
    "       strata-llama steer   MODEL.gguf LAYER RUN PROMPT NEW-TOKENS EDIT...    1:109+6 adds, 2:33=0 sets\n"
    "       strata-llama timing  MODEL.gguf LAYER RUN PROMPT                      what a token costs\n";

int main(int argc, char **argv) {
    struct Command {
        std::function<void(const Words &)> run;
        std::size_t fewest;
    };
    const std::map<std::string, Command> commands = {
        {"capture", {capture, 4}}, {"watch", {watch, 4}}, {"steer", {steer, 6}}, {"timing", {timing, 4}}};
    if (strata_abi_version() != STRATA_ABI_VERSION) return std::fputs("another strata than this was compiled for\n", stderr), 2;
    Words words(argv + 1, argv + argc);
    const auto command = words.empty() ? commands.end() : commands.find(words[0]);
    if (command == commands.end() || words.size() - 1 < command->second.fewest) return std::fputs(USAGE, stderr), 2;
    words.erase(words.begin());
    try {
        command->second.run(words);
    } catch (const std::exception &e) {
        return std::fprintf(stderr, "strata-llama: %s\n", e.what()), 1;
    }
}
