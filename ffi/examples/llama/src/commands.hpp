// What the program does. Each command takes the words after its own, and returns false if too few or too many came.
#pragma once

#include <string>
#include <vector>

using Words = std::vector<std::string>;

bool capture(const Words &words);  // capture.cpp: activations of a block into a dump
bool watch(const Words &words);    // watch.cpp: the latents of each token
bool serve(const Words &words);    // serve.cpp: completions over HTTP, with the latents of each token
bool steer(const Words &words);    // steer.cpp: latents added or set while the model runs
bool timing(const Words &words);   // timing.cpp: what a token costs
