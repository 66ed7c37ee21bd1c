// The kernels of the device path: one translation unit, for NVRTC and for the emulator.
#include "cofire.cuh"

#ifdef STRATA_EMULATED
#define ROW(name) {#name, emulate::Thunk<&name>::run}
static const struct { const char *name; void (*run)(void **); } KERNELS[] = {
    ROW(product_above), ROW(round_rows), ROW(screen), ROW(exact_above), ROW(start_bars), ROW(raise_bars), ROW(rows_in_order),
    ROW(keep_largest), ROW(activate), ROW(keep_dead), ROW(mark_active), ROW(scan), ROW(pack_rows), ROW(gather_rows), ROW(gather_words),
    ROW(scatter_lists), ROW(rows_in), ROW(leave_over), ROW(sum_rows), ROW(largest_children), ROW(cut_count),
    ROW(cut_pick), ROW(count_ties), ROW(keep_cut), ROW(list_least), ROW(settle),
    ROW(add_children), ROW(add_parents), ROW(values_at), ROW(contain), ROW(penalties), ROW(row_squares), ROW(aux_rows), ROW(entry_gradients),
    ROW(count_latents), ROW(place_entries), ROW(order_entries), ROW(decoder_gradients), ROW(latent_sums),
    ROW(encoder_gradients), ROW(project_rows),
    ROW(square_sums), ROW(chunk_columns), ROW(bias_start), ROW(bias_groups), ROW(bias_add), ROW(mix_into), ROW(adam_rows),
    ROW(most_found), ROW(poor_rows), ROW(start_cut), ROW(ordered_sum), ROW(aux_weight), ROW(verdict), ROW(count_parents),
    ROW(count_children), ROW(scale_sums)};
// The shape of cuLaunchKernel. Writes what went wrong to `why`; returns 0 if nothing did.
extern "C" int strata_emulate(const char *name, const unsigned *grid, const unsigned *block, unsigned shared, unsigned order, void **args, char *why, size_t room) {
    for (auto &k : KERNELS)
        if (!strcmp(k.name, name)) {
            std::string wrong = emulate::launch(k.run, args, grid, block, shared, order);
            snprintf(why, room, "%s: %s", name, wrong.c_str());
            return !wrong.empty();
        }
    return snprintf(why, room, "no kernel %s", name), 1;
}
#endif
