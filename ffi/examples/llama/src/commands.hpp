// What the program does; each takes the words after its own.
#pragma once

#include <string>
#include <vector>

using Words = std::vector<std::string>;

void capture(const Words &words);  // capture.cpp: rows of a layer into a dump
void watch(const Words &words);    // watch.cpp: the features of each token
void steer(const Words &words);    // steer.cpp: features added or set while the model runs
void timing(const Words &words);   // timing.cpp: what a token costs
