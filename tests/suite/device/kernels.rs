//! Every kernel alone, at sizes around those that it works in.

use strata_core::device::check::{BOUNDARY, run};
use strata_core::{Compute, Isa, Par};
use strata_tests::emulator::{ORDERS, device};

#[test]
fn every_kernel_has_the_bits_of_the_cpu_in_every_order_of_threads() {
    let compute = Compute::new(Isa::detect(), Par::Seq);
    for shape in BOUNDARY {
        for order in ORDERS {
            let mut checked = 0;
            run(&device(order), compute, shape, |_| checked += 1).unwrap_or_else(|why| panic!("order {order}: {why}"));
            assert_eq!(checked, 7, "kernels compared");
        }
    }
}
