//! The narrower engines beside aws-lc-rs with the same instructions, in a child process for each: aws-lc asks the
//! environment once, at start, what it may use of the processor.

use std::process::Command;

use anyhow::Context;
use portcullis_aead::EngineKind;

use super::Options;

/// Which instructions aws-lc-rs may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Restriction {
    /// AVX2 with VAES and VPCLMULQDQ, no AVX-512
    Avx2,
    /// AES-NI and PCLMULQDQ on SSE, no AVX
    Aesni,
}

impl Restriction {
    pub(crate) const ALL: [Self; 2] = [Self::Avx2, Self::Aesni];

    /// Our engine that keeps to the same.
    pub(crate) fn kind(self) -> EngineKind {
        match self {
            Self::Avx2 => EngineKind::Vaes256,
            Self::Aesni => EngineKind::AesNi,
        }
    }

    /// As the rows of aws-lc-rs are called.
    pub(crate) fn peer(self) -> &'static str {
        match self {
            Self::Avx2 => "aws-lc-rs-avx2",
            Self::Aesni => "aws-lc-rs-aesni",
        }
    }

    /// What cases begin with.
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Self::Avx2 => "avx2/",
            Self::Aesni => "aesni/",
        }
    }

    /// `OPENSSL_ia32cap`: bits to be cleared, of CPUID leaf 1 (EDX, and ECX above it) and of leaf 7 (EBX, ECX).
    fn mask(self) -> String {
        let avx = 1_u64 << (32 + 28);
        let avx2 = 1 << 5;
        // F, DQ, IFMA, CD, BW, VL.
        let avx512 = [16, 17, 21, 28, 30, 31].into_iter().fold(0, |bits, bit| bits | 1_u64 << bit);
        let vaes_and_vpclmulqdq = 0b11 << (32 + 9);
        let (one, seven) = match self {
            Self::Avx2 => (0, avx512),
            Self::Aesni => (avx, avx512 | avx2 | vaes_and_vpclmulqdq),
        };
        format!("~{one:#x}:~{seven:#x}")
    }

    /// Runs the same bench restricted, and lets it print its own table.
    pub(crate) fn run(self, options: &Options) -> anyhow::Result<()> {
        let mut command = Command::new(std::env::current_exe().context("our own path")?);
        command.arg("crypto").args(["--restricted", self.prefix().trim_end_matches('/')]);
        let switches = [
            (options.output.json, "--json"),
            (options.output.markdown, "--markdown"),
            (options.scope.quick, "--quick"),
        ];
        command.args(switches.into_iter().filter_map(|(set, name)| set.then_some(name)));
        if let Some(only) = &options.scope.only {
            command.args(["--only", only]);
        }
        let status =
            command.env("OPENSSL_ia32cap", self.mask()).status().context("starting the bench again")?;
        anyhow::ensure!(status.success(), "the bench restricted to {self:?} failed: {status}");
        Ok(())
    }
}
