//! Every kernel alone, at sizes around those that it works in.

use strata_cli::device::{FULL_TRAININGS, Training, check_trainings};
use strata_core::device::check::{BOUNDARY, FULL, Shape, run};
use strata_core::{Compute, Isa, Par};
use strata_tests::emulator::{ORDERS, device};

#[test]
fn every_kernel_has_the_bits_of_the_cpu_in_every_order_of_threads() {
    let compute = Compute::new(Isa::detect(), Par::Seq);
    for shape in BOUNDARY {
        for order in ORDERS {
            let mut checked = 0;
            run(&device(order), compute, shape, |_| checked += 1).unwrap_or_else(|why| panic!("order {order}: {why}"));
            assert_eq!(checked, 8, "kernels compared");
        }
    }
}

/// Latents and widths of real models, whose offsets pass 2^31 bytes, on a few rows: `strata device --check` has all of them.
#[test]
#[ignore = "minutes, and 8 GiB: .ci/soak"]
fn kernels_at_the_sizes_of_real_models_have_the_bits_of_the_cpu() {
    for shape in FULL {
        let shape = Shape { n: 20, ..shape };
        run(&device(77), Compute::new(Isa::detect(), Par::Rayon), shape, |_| ()).unwrap_or_else(|why| panic!("{why}"));
    }
}

#[test]
#[ignore = "minutes: .ci/soak"]
fn trainings_at_the_sizes_of_real_models_have_the_bits_of_the_cpu() {
    for of in FULL_TRAININGS {
        let of = Training { n: 40, steps: 2, ..of };
        check_trainings(&device(0), Isa::detect(), of).unwrap_or_else(|why| panic!("{why}"));
    }
}
