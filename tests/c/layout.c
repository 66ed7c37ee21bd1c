/* Sizes and offsets that programs have been compiled against: on 64-bit machines they never change. Every field of each
 * struct; tests/suite/ffi/structs.rs reads this file and asks the same of the Rust side. */
#include <stddef.h>
#include <strata.h>

#define AT(type, field, offset) _Static_assert(offsetof(type, field) == offset, #type "." #field)
#define SIZE(type, size) _Static_assert(sizeof(type) == size, #type)

#if SIZE_MAX == UINT64_MAX
AT(strata_rows, struct_size, 0);
AT(strata_rows, data, 8);
AT(strata_rows, n_rows, 16);
AT(strata_rows, d, 24);
AT(strata_rows, row_stride_bytes, 32);
AT(strata_rows, dtype, 40);
AT(strata_rows, reserved, 44);
SIZE(strata_rows, 48);
AT(strata_rows_mut, struct_size, 0);
AT(strata_rows_mut, data, 8);
AT(strata_rows_mut, n_rows, 16);
AT(strata_rows_mut, d, 24);
AT(strata_rows_mut, row_stride_bytes, 32);
AT(strata_rows_mut, dtype, 40);
AT(strata_rows_mut, reserved, 44);
SIZE(strata_rows_mut, 48);
AT(strata_codes, struct_size, 0);
AT(strata_codes, offsets, 8);
AT(strata_codes, offsets_len, 16);
AT(strata_codes, index, 24);
AT(strata_codes, value, 32);
AT(strata_codes, capacity, 40);
AT(strata_codes, n, 48);
SIZE(strata_codes, 56);
AT(strata_edit, level, 0);
AT(strata_edit, latent, 4);
AT(strata_edit, strength, 8);
AT(strata_edit, mode, 12);
SIZE(strata_edit, 16);
AT(strata_error, struct_size, 0);
AT(strata_error, status, 8);
AT(strata_error, reserved, 12);
AT(strata_error, message, 16);
SIZE(strata_error, 272);
AT(strata_model_params, struct_size, 0);
AT(strata_model_params, weights, 8);
AT(strata_model_params, reserved, 12);
SIZE(strata_model_params, 16);
AT(strata_ctx_params, struct_size, 0);
AT(strata_ctx_params, n_threads, 8);
AT(strata_ctx_params, device, 12);
SIZE(strata_ctx_params, 16);
AT(strata_dump_params, struct_size, 0);
AT(strata_dump_params, d, 8);
AT(strata_dump_params, dtype, 16);
AT(strata_dump_params, context, 20);
AT(strata_dump_params, max_shard_bytes, 24);
AT(strata_dump_params, model, 32);
AT(strata_dump_params, hook, 40);
AT(strata_dump_params, reserved, 48);
SIZE(strata_dump_params, 56);
AT(strata_model_info, struct_size, 0);
AT(strata_model_info, d, 8);
AT(strata_model_info, f1, 16);
AT(strata_model_info, f2, 24);
AT(strata_model_info, max_active1, 32);
AT(strata_model_info, max_active2, 40);
AT(strata_model_info, reserved, 48);
AT(strata_model_info, d_out, 56);
AT(strata_model_info, needs_rows, 64);
AT(strata_model_info, reserved2, 68);
SIZE(strata_model_info, 72);
AT(strata_stats, struct_size, 0);
AT(strata_stats, rows, 8);
AT(strata_stats, fvu1, 16);
AT(strata_stats, fvu2, 24);
AT(strata_stats, l0_1, 32);
AT(strata_stats, l0_2, 40);
AT(strata_stats, dead1, 48);
AT(strata_stats, dead2, 56);
AT(strata_stats, reserved, 64);
SIZE(strata_stats, 72);
AT(strata_model_metadata, struct_size, 0);
AT(strata_model_metadata, model, 8);
AT(strata_model_metadata, hook, 16);
AT(strata_model_metadata, layer, 24);
AT(strata_model_metadata, reserved, 28);
SIZE(strata_model_metadata, 32);
AT(strata_watch_info, struct_size, 0);
AT(strata_watch_info, max_active1, 8);
AT(strata_watch_info, max_active2, 16);
AT(strata_watch_info, computed1, 24);
AT(strata_watch_info, computed2, 32);
AT(strata_watch_info, why1, 40);
AT(strata_watch_info, why2, 44);
SIZE(strata_watch_info, 48);
AT(strata_head_info, struct_size, 0);
AT(strata_head_info, name, 8);
AT(strata_head_info, n, 16);
AT(strata_head_info, reads, 24);
AT(strata_head_info, reserved, 28);
SIZE(strata_head_info, 32);
AT(strata_probe_state_params, struct_size, 0);
AT(strata_probe_state_params, n_sequences, 8);
AT(strata_probe_state_params, on, 16);
AT(strata_probe_state_params, off, 24);
SIZE(strata_probe_state_params, 32);
AT(strata_probe_reading, struct_size, 0);
AT(strata_probe_reading, rows, 8);
AT(strata_probe_reading, last, 16);
AT(strata_probe_reading, max, 24);
AT(strata_probe_reading, mean, 32);
AT(strata_probe_reading, max_row, 40);
AT(strata_probe_reading, alarms, 48);
AT(strata_probe_reading, is_on, 56);
AT(strata_probe_reading, reserved, 60);
SIZE(strata_probe_reading, 64);
#endif

int main(void) { return strata_abi_version() != STRATA_ABI_VERSION; }
