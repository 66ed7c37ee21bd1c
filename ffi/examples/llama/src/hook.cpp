#include "hook.hpp"

#include <ggml.h>

#include <cstring>
#include <stdexcept>
#include <string>

Hook::Hook(int layer, Use use)
    : layer_(layer), output_("l_out-" + std::to_string(layer)), norm_("norm_w-" + std::to_string(layer)), use_(std::move(use)) {}

// Is this tensor the output of the layer? Most graphs call it l_out-N. BERT's gives it no name of its own: it is the sum
// of norm_w-N and a bias that is called node_..., or result_embd... after the last layer. The sums of other norms have names.
// Each of the thousand nodes of a graph is asked about for every token, so that nothing is formatted here.
bool Hook::is_output(const ggml_tensor *t) const {
    if (t->name == output_) return true;
    return t->op == GGML_OP_ADD && t->src[0] && t->src[0]->name == norm_ &&
           (!std::strncmp(t->name, "node_", 5) || !std::strncmp(t->name, "result_embd", 11));
}

static strata_dtype dtype_of(const ggml_tensor *t) {
    switch (t->type) {
        case GGML_TYPE_F32: return STRATA_DTYPE_F32;
        case GGML_TYPE_F16: return STRATA_DTYPE_F16;
        case GGML_TYPE_BF16: return STRATA_DTYPE_BF16;
        default: throw std::runtime_error(std::string(t->name) + ": expected f32, f16 or bf16, found " + ggml_type_name(t->type));
    }
}

bool Hook::on_node(ggml_tensor *t, bool ask, void *hook) {
    Hook &self = *static_cast<Hook *>(hook);
    if (ask) return self.is_output(t);  // yes splits the graph here
    try {
        self.take(t);
        return !self.stops_;
    } catch (...) {  // which must not reach llama.cpp
        self.failure_ = std::current_exception();
        return false;
    }
}

void Hook::take(ggml_tensor *t) {
    seen_ = true;
    if (!use_) return;
    strata_rows_mut rows{};
    rows.struct_size = sizeof rows;
    rows.data = t->data;
    rows.d = static_cast<std::size_t>(t->ne[0]);
    rows.n_rows = static_cast<std::size_t>(t->ne[1]);
    rows.row_stride_bytes = t->nb[1];
    rows.dtype = dtype_of(t);
    if (ggml_backend_buffer_is_host(t->buffer ? t->buffer : t->view_src->buffer)) {
        use_(rows);  // no copy
    } else {
        copy_.resize(ggml_nbytes(t));
        ggml_backend_tensor_get(t, copy_.data(), 0, copy_.size());
        rows.data = copy_.data();
        use_(rows);
        ggml_backend_tensor_set(t, copy_.data(), 0, copy_.size());
    }
}

void Hook::check() {
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
    if (!std::exchange(seen_, false)) throw std::runtime_error("the model has no layer " + std::to_string(layer_));
}
