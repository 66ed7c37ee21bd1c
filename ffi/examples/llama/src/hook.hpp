// The output of one layer, where llama.cpp has just computed it: what `cb_eval` is for.
#pragma once

#include <ggml-backend.h>
#include <strata.hpp>

#include <cstddef>
#include <exception>
#include <functional>
#include <string>
#include <vector>

class Hook {
  public:
    // Gets the rows of the batch, a token each, in order. It may change them: the layers above read what it leaves.
    using Use = std::function<void(strata_rows_mut rows)>;

    // An empty `use` has the layer handed over, and nothing done with it.
    Hook(int layer, Use use);

    // Leaves out what the graph computes after the layer.
    void stop_there() { stops_ = true; }

    // For llama_context_params: cb_eval, with the hook as cb_eval_user_data.
    static bool on_node(ggml_tensor *t, bool ask, void *hook);

    // To be called after each evaluation: throws what `use` threw, or that the graph has no such layer. llama.cpp itself
    // reports neither: when the callback returns false it leaves the rest of the graph out, and says that all is well.
    void check();

  private:
    bool is_output(const ggml_tensor *t) const;
    void take(ggml_tensor *t);

    int layer_;
    std::string output_, norm_;  // names of tensors
    Use use_;
    bool stops_ = false;
    bool seen_ = false;
    std::exception_ptr failure_;
    std::vector<unsigned char> copy_;
};
