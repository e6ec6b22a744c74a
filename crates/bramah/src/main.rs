//! `bramah`: see the library beside it.

fn main() -> std::process::ExitCode {
    bramah::main()
}
