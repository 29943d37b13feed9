//! The system calls, by what the filter does with them.
//!
//! Not here, and so not there for a build: mounting, namespaces, tracing and other processes' memory, keys, BPF, performance counters, io_uring,
//! userfaultfd, kernel images and modules, handles of files, clocks, quotas, swap, accounting. `clone3`, `openat2`, `fchmodat2` and the like take their
//! arguments in memory, where no filter sees them; the C library falls back to calls that can be judged.

use libc::*;

/// Calls that exist on every architecture.
#[rustfmt::skip]
pub(super) const ALLOWED: &[i64] = &[
    // files
    SYS_read, SYS_write, SYS_close, SYS_fstat, SYS_lseek, SYS_pread64, SYS_pwrite64, SYS_readv, SYS_writev, SYS_preadv, SYS_pwritev,
    SYS_preadv2, SYS_pwritev2, SYS_openat, SYS_newfstatat, SYS_statx, SYS_faccessat, SYS_faccessat2, SYS_readlinkat, SYS_getdents64,
    SYS_mkdirat, SYS_mknodat, SYS_unlinkat, SYS_renameat2, SYS_linkat, SYS_symlinkat, SYS_fchmodat, SYS_fchmod, SYS_fchownat,
    SYS_fchown, SYS_utimensat, SYS_truncate, SYS_ftruncate, SYS_fallocate, SYS_fadvise64, SYS_readahead, SYS_sync, SYS_syncfs,
    SYS_fsync, SYS_fdatasync, SYS_sync_file_range, SYS_statfs, SYS_fstatfs, SYS_flock, SYS_fcntl, SYS_ioctl, SYS_dup, SYS_dup3,
    SYS_pipe2, SYS_sendfile, SYS_splice, SYS_tee, SYS_vmsplice, SYS_copy_file_range, SYS_close_range, SYS_getcwd, SYS_chdir,
    SYS_fchdir, SYS_umask, SYS_getxattr, SYS_lgetxattr, SYS_fgetxattr, SYS_listxattr, SYS_llistxattr, SYS_flistxattr,
    SYS_inotify_init1, SYS_inotify_add_watch, SYS_inotify_rm_watch, SYS_setxattr, SYS_lsetxattr, SYS_fsetxattr, SYS_removexattr,
    SYS_lremovexattr, SYS_fremovexattr,
    // memory
    SYS_mmap, SYS_mprotect, SYS_munmap, SYS_brk, SYS_mremap, SYS_msync, SYS_mincore, SYS_madvise, SYS_mlock, SYS_mlock2,
    SYS_munlock, SYS_mlockall, SYS_munlockall, SYS_memfd_create, SYS_membarrier, SYS_pkey_alloc, SYS_pkey_free, SYS_pkey_mprotect,
    SYS_get_mempolicy, SYS_mseal, SYS_shmget, SYS_shmat, SYS_shmctl, SYS_shmdt,
    // processes and threads
    SYS_clone, SYS_execve, SYS_execveat, SYS_exit, SYS_exit_group, SYS_wait4, SYS_waitid, SYS_kill, SYS_tkill, SYS_tgkill,
    SYS_getpid, SYS_getppid, SYS_gettid, SYS_getpgid, SYS_setpgid, SYS_getsid, SYS_setsid, SYS_set_tid_address, SYS_restart_syscall,
    SYS_set_robust_list, SYS_get_robust_list, SYS_rseq, SYS_futex, SYS_futex_waitv, SYS_prctl, SYS_pidfd_open,
    SYS_pidfd_send_signal, SYS_getrusage, SYS_prlimit64, SYS_getrlimit, SYS_setrlimit, SYS_times, SYS_sysinfo, SYS_uname,
    SYS_getcpu, SYS_getrandom, SYS_personality,
    // who
    SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid, SYS_getgroups, SYS_getresuid, SYS_getresgid, SYS_setuid, SYS_setgid,
    SYS_setreuid, SYS_setregid, SYS_setresuid, SYS_setresgid, SYS_setgroups, SYS_setfsuid, SYS_setfsgid, SYS_capget, SYS_capset,
    // scheduling
    SYS_sched_yield, SYS_sched_getaffinity, SYS_sched_setaffinity, SYS_sched_getparam, SYS_sched_setparam, SYS_sched_getscheduler,
    SYS_sched_setscheduler, SYS_sched_getattr, SYS_sched_setattr, SYS_sched_get_priority_max, SYS_sched_get_priority_min,
    SYS_sched_rr_get_interval, SYS_getpriority, SYS_setpriority, SYS_ioprio_get, SYS_ioprio_set,
    // signals
    SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_rt_sigpending, SYS_rt_sigtimedwait, SYS_rt_sigqueueinfo,
    SYS_rt_tgsigqueueinfo, SYS_rt_sigsuspend, SYS_sigaltstack, SYS_signalfd4,
    // time
    SYS_clock_gettime, SYS_clock_getres, SYS_clock_nanosleep, SYS_nanosleep, SYS_gettimeofday, SYS_getitimer, SYS_setitimer,
    SYS_timer_create, SYS_timer_settime, SYS_timer_gettime, SYS_timer_getoverrun, SYS_timer_delete, SYS_timerfd_create,
    SYS_timerfd_settime, SYS_timerfd_gettime,
    // waiting
    SYS_ppoll, SYS_pselect6, SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait, SYS_epoll_pwait2, SYS_eventfd2,
    // sockets and queues
    SYS_socket, SYS_socketpair, SYS_connect, SYS_accept, SYS_accept4, SYS_bind, SYS_listen, SYS_getsockname, SYS_getpeername,
    SYS_setsockopt, SYS_getsockopt, SYS_sendto, SYS_recvfrom, SYS_sendmsg, SYS_recvmsg, SYS_sendmmsg, SYS_recvmmsg, SYS_shutdown,
    SYS_semget, SYS_semop, SYS_semctl, SYS_semtimedop, SYS_msgget, SYS_msgsnd, SYS_msgrcv, SYS_msgctl,
];

/// Calls that only older architectures have.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
pub(super) const LEGACY: &[i64] = &[
    SYS_open, SYS_creat, SYS_stat, SYS_lstat, SYS_access, SYS_readlink, SYS_getdents, SYS_mkdir, SYS_rmdir, SYS_mknod, SYS_unlink,
    SYS_rename, SYS_renameat, SYS_link, SYS_symlink, SYS_chmod, SYS_chown, SYS_lchown, SYS_utime, SYS_utimes, SYS_futimesat, SYS_dup2,
    SYS_pipe, SYS_poll, SYS_select, SYS_epoll_create, SYS_epoll_wait, SYS_eventfd, SYS_signalfd, SYS_inotify_init, SYS_fork, SYS_vfork,
    SYS_getpgrp, SYS_pause, SYS_alarm, SYS_time, SYS_arch_prctl,
];
/// Calls that only older architectures have.
#[cfg(not(target_arch = "x86_64"))]
pub(super) const LEGACY: &[i64] = &[SYS_renameat];

/// Calls that write extended attributes: rights, and the marks by which an overlay knows what was deleted.
pub(super) const ATTRIBUTES: &[i64] =
    &[SYS_setxattr, SYS_lsetxattr, SYS_fsetxattr, SYS_removexattr, SYS_lremovexattr, SYS_fremovexattr];

/// Calls that change a mode, and which argument it is.
#[cfg(target_arch = "x86_64")]
pub(super) const MODE_CHANGES: &[(i64, u8)] = &[(SYS_fchmod, 1), (SYS_fchmodat, 2), (SYS_chmod, 1), (SYS_creat, 1)];
/// Calls that change a mode, and which argument it is.
#[cfg(not(target_arch = "x86_64"))]
pub(super) const MODE_CHANGES: &[(i64, u8)] = &[(SYS_fchmod, 1), (SYS_fchmodat, 2)];

/// Calls that make a node of any kind, and which argument its mode is.
#[cfg(target_arch = "x86_64")]
pub(super) const NODE_MAKERS: &[(i64, u8)] = &[(SYS_mknodat, 2), (SYS_mknod, 1)];
/// Calls that make a node of any kind, and which argument its mode is.
#[cfg(not(target_arch = "x86_64"))]
pub(super) const NODE_MAKERS: &[(i64, u8)] = &[(SYS_mknodat, 2)];

/// Calls that open and may make a file, and which arguments their flags and mode are.
#[cfg(target_arch = "x86_64")]
pub(super) const OPENERS: &[(i64, u8, u8)] = &[(SYS_openat, 2, 3), (SYS_open, 1, 2)];
/// Calls that open and may make a file, and which arguments their flags and mode are.
#[cfg(not(target_arch = "x86_64"))]
pub(super) const OPENERS: &[(i64, u8, u8)] = &[(SYS_openat, 2, 3)];
