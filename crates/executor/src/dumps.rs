//! What of a process's memory the kernel writes when it dumps core (core(5), "Controlling which mappings are written").

/// The calling process's own filter; processes that it starts, and what they execute, have the same.
const FILTER: &str = "/proc/self/coredump_filter";
/// What a process has unless somebody says otherwise: private memory, shared anonymous memory, ELF headers, huge pages.
const USUAL: &str = "0x33";

/// Leaves the memory of this process, and of those that it starts from now on, out of core dumps: for one that holds secrets. A
/// process that could still be traced keeps its rights to its own `/proc`, which it would lose with `PR_SET_DUMPABLE`.
pub fn leave_memory_out_of_core_dumps() {
    // A kernel without core dumps has no such file.
    let _optional = std::fs::write(FILTER, "0");
}

/// Programs of steps dump as the kernel has it by default. Those that an external runtime starts keep the builder's filter.
pub(crate) fn as_usual() {
    let _optional = std::fs::write(FILTER, USUAL);
}
