//! A process's own resource usage.

use prometheus::core::{Collector as Source, Desc};
use prometheus::proto::MetricFamily;

use super::scrape::{Family, counter, descs, gauge, number};

const CPU: Family =
    counter("process_cpu_seconds_total", &[], "Total user and system CPU time spent in seconds.");
const OPEN_FDS: Family = gauge("process_open_fds", &[], "Number of open file descriptors.");
const MAX_FDS: Family = gauge("process_max_fds", &[], "Maximum number of open file descriptors.");
const VIRTUAL: Family = gauge("process_virtual_memory_bytes", &[], "Virtual memory size in bytes.");
const RESIDENT: Family = gauge("process_resident_memory_bytes", &[], "Resident memory size in bytes.");
const START: Family =
    gauge("process_start_time_seconds", &[], "Start time of the process since unix epoch in seconds.");
const THREADS: Family = gauge("process_threads", &[], "Number of OS threads in the process.");

/// The agent's process, under the usual metric names.
pub(super) struct OwnProcess {
    descs: Vec<Desc>,
}

// === impl OwnProcess ===

impl OwnProcess {
    pub(super) fn new() -> prometheus::Result<OwnProcess> {
        Ok(OwnProcess { descs: descs([&CPU, &OPEN_FDS, &MAX_FDS, &VIRTUAL, &RESIDENT, &START, &THREADS])? })
    }

    fn read() -> procfs::ProcResult<Vec<MetricFamily>> {
        let process = own_process()?;
        Ok(vec![
            CPU.one(process.cpu),
            OPEN_FDS.one(process.open_fds),
            MAX_FDS.one(process.max_fds),
            VIRTUAL.one(process.virtual_memory),
            RESIDENT.one(process.resident),
            START.one(process.start),
            THREADS.one(process.threads),
        ])
    }
}

/// Samples about this process.
pub(super) struct Process {
    pub(super) cpu: f64,
    pub(super) open_fds: f64,
    pub(super) max_fds: f64,
    pub(super) virtual_memory: f64,
    pub(super) resident: f64,
    pub(super) start: f64,
    pub(super) threads: f64,
}

/// Reads this process's samples.
pub(super) fn own_process() -> procfs::ProcResult<Process> {
    let process = procfs::process::Process::myself()?;
    let stat = process.stat()?;
    let ticks = number(procfs::ticks_per_second());
    Ok(Process {
        cpu: number(stat.utime + stat.stime) / ticks,
        open_fds: number(process.fd_count()? as u64),
        max_fds: match process.limits()?.max_open_files.soft_limit {
            procfs::process::LimitValue::Unlimited => f64::INFINITY,
            procfs::process::LimitValue::Value(limit) => number(limit),
        },
        virtual_memory: number(stat.vsize),
        resident: number(stat.rss * procfs::page_size()),
        start: number(procfs::boot_time_secs()?) + number(stat.starttime) / ticks,
        threads: stat.num_threads as f64,
    })
}

impl Source for OwnProcess {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // Without /proc these series are missing; the rest of the scrape is still useful.
        OwnProcess::read().unwrap_or_default()
    }
}
