// llama.cpp with Strata attached to one layer.
#include "commands.hpp"

#include <strata.h>

#include <cstdio>
#include <exception>
#include <functional>
#include <map>

static const char USAGE[] =
    "usage: strata-llama capture MODEL.gguf HOOK TEXT DUMP      activations of a block over a text, to train on\n"
    "                    [--max-tokens N] [--context N] [--bos] [--dtype f32|f16|bf16]\n"
    "       strata-llama watch   MODEL.gguf HOOK RUN PROMPT     which latents are active on each token\n"
    "                    [--tokens N] [--most N]                N new tokens; the N strongest latents\n"
    "                    [--list FILE]                          only the latents of a file, a line each: 1:109 NAME\n"
    "       strata-llama serve   MODEL.gguf HOOK RUN            completions over HTTP, and a page that shows the latents\n"
    "                    [--host ADDRESS] [--port N] [--list FILE] [--most N]\n"
    "       strata-llama steer   MODEL.gguf HOOK RUN PROMPT EDIT...   1:109+6 adds, 2:33=0 sets\n"
    "                    [--tokens N] [--control-vector FILE]   and with what strata export --format gguf-cvector wrote\n"
    "       strata-llama timing  MODEL.gguf HOOK RUN PROMPT     what a token costs\n"
    "                    [--context N] [--singles N] [--rounds N] [--list FILE]\n"
    "HOOK is the output of a block: 14, or blocks.14.hook_resid_post. All take [--threads N], by default 1.\n";

int main(int argc, char **argv) {
    const std::map<std::string, std::function<bool(const Words &)>> commands = {
        {"capture", capture}, {"watch", watch}, {"serve", serve}, {"steer", steer}, {"timing", timing}};
    if (strata_abi_version() != STRATA_ABI_VERSION) return std::fputs("another strata than this was compiled for\n", stderr), 2;
    Words words(argv + 1, argv + argc);
    const auto command = words.empty() ? commands.end() : commands.find(words[0]);
    if (command == commands.end()) return std::fputs(USAGE, stderr), 2;
    words.erase(words.begin());
    try {
        if (!command->second(words)) return std::fputs(USAGE, stderr), 2;
    } catch (const std::exception &e) {
        return std::fprintf(stderr, "strata-llama: %s\n", e.what()), 1;
    }
}
