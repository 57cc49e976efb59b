package stats

import (
	"os"
	"runtime"
	"strings"
)

type cadvisor struct{ text }

// plain are the metrics of one number for each group, by the names that
// cadvisor 0.60 has for them. A negative value is left out.
var plain = []struct {
	name, kind, help string
	value            func(s *series) float64
}{
	{"container_last_seen", gauge, "Last time a container was seen by the exporter", func(s *series) float64 { return float64(s.at.Unix()) }},
	{"container_start_time_seconds", gauge, "Start time of the container since unix epoch in seconds.", began},
	{"container_cpu_user_seconds_total", counter, "Cumulative user cpu time consumed in seconds.", func(s *series) float64 { return seconds(s.cpu.User) }},
	{"container_cpu_system_seconds_total", counter, "Cumulative system cpu time consumed in seconds.", func(s *series) float64 { return seconds(s.cpu.System) }},
	{"container_cpu_cfs_periods_total", counter, "Number of elapsed enforcement period intervals.", ifQuota(func(s *series) float64 { return float64(s.cpu.Periods) })},
	{"container_cpu_cfs_throttled_periods_total", counter, "Number of throttled period intervals.", ifQuota(func(s *series) float64 { return float64(s.cpu.ThrottledPeriods) })},
	{"container_cpu_cfs_throttled_seconds_total", counter, "Total time duration the container has been throttled.", ifQuota(func(s *series) float64 { return seconds(s.cpu.ThrottledNanoseconds) })},
	{"container_memory_cache", gauge, "Number of bytes of page cache memory.", func(s *series) float64 { return float64(s.memory.Cache) }},
	{"container_memory_rss", gauge, "Size of RSS in bytes.", func(s *series) float64 { return float64(s.memory.RSS) }},
	{"container_memory_mapped_file", gauge, "Size of memory mapped files in bytes.", func(s *series) float64 { return float64(s.memory.MappedFile) }},
	{"container_memory_swap", gauge, "Container swap usage in bytes.", func(s *series) float64 { return float64(s.memory.Swap) }},
	{"container_memory_failcnt", counter, "Number of memory usage hits limits", func(s *series) float64 { return float64(s.memory.Failures) }},
	{"container_memory_usage_bytes", gauge, "Current memory usage in bytes, including all memory regardless of when it was accessed", func(s *series) float64 { return float64(s.memory.Usage) }},
	{"container_memory_max_usage_bytes", gauge, "Maximum memory usage recorded in bytes", func(s *series) float64 { return float64(s.memory.Peak) }},
	{"container_memory_working_set_bytes", gauge, "Current working set in bytes.", func(s *series) float64 { return float64(s.memory.WorkingSet) }},
	{"container_oom_events_total", counter, "Count of out of memory events observed for the container", func(s *series) float64 { return float64(s.memory.OOMKills) }},
	{"container_spec_cpu_period", gauge, "CPU period of the container.", ofContainer(func(s *series) float64 { return float64(s.limits.CPUPeriod) })},
	{"container_spec_cpu_quota", gauge, "CPU quota of the container.", ifQuota(func(s *series) float64 { return float64(s.limits.CPUQuota) })},
	{"container_spec_cpu_shares", gauge, "CPU share of the container.", ofContainer(func(s *series) float64 { return float64(s.limits.CPUShares) })},
	{"container_spec_memory_limit_bytes", gauge, "Memory limit for the container.", func(s *series) float64 { return float64(s.limits.MemoryBytes) }},
	{"container_spec_memory_reservation_limit_bytes", gauge, "Memory reservation limit for the container.", func(*series) float64 { return 0 }},
	{"container_spec_memory_swap_limit_bytes", gauge, "Memory swap limit for the container.", func(s *series) float64 { return float64(s.limits.MemoryBytes) }},
	{"container_threads", gauge, "Number of threads running inside the container", ofContainer(func(s *series) float64 { return float64(s.pids.Current) })},
	{"container_threads_max", gauge, "Maximum number of threads allowed inside the container, infinity if value is zero", ofContainer(func(s *series) float64 { return float64(s.pids.Limit) })},
	{"container_processes", gauge, "Number of processes running inside the container.", ofProcesses(func(p *processes) int { return p.count })},
	{"container_file_descriptors", gauge, "Number of open file descriptors for the container.", ofProcesses(func(p *processes) int { return p.files })},
	{"container_sockets", gauge, "Number of open sockets for the container.", ofProcesses(func(p *processes) int { return p.sockets })},
}

const leftOut = -1

func began(s *series) float64 {
	if s.began.IsZero() {
		return leftOut
	}
	return float64(s.began.Unix())
}

func ofContainer(f func(s *series) float64) func(s *series) float64 {
	return func(s *series) float64 {
		if !s.container {
			return leftOut
		}
		return f(s)
	}
}

func ifQuota(f func(s *series) float64) func(s *series) float64 {
	return func(s *series) float64 {
		if s.limits.CPUQuota == 0 {
			return leftOut
		}
		return f(s)
	}
}

func ofProcesses(f func(p *processes) int) func(s *series) float64 {
	return func(s *series) float64 {
		if s.proc == nil {
			return leftOut
		}
		return float64(f(s.proc))
	}
}

func (w *cadvisor) write(all []series) {
	for _, m := range plain {
		w.family(m.name, m.kind, m.help)
		for i := range all {
			if v := m.value(&all[i]); v >= 0 {
				w.sample(m.name, v, noTime, all[i].labels)
			}
		}
	}
	w.family("container_cpu_usage_seconds_total", counter, "Cumulative cpu time consumed in seconds.")
	for i := range all {
		w.sample("container_cpu_usage_seconds_total", seconds(all[i].cpu.Nanoseconds), noTime, all[i].labels, `cpu="total"`)
	}
	w.failures(all)
	w.network(all)
	w.disks(all)
	w.family("container_scrape_error", gauge, "1 if there was an error while getting container metrics, 0 otherwise")
	w.sample("container_scrape_error", 0, noTime)
}

func (w *cadvisor) failures(all []series) {
	const name = "container_memory_failures_total"
	w.family(name, counter, "Cumulative count of memory allocation failures.")
	for i := range all {
		s := &all[i]
		for _, scope := range []string{"container", "hierarchy"} {
			l := `scope="` + scope + `"`
			w.sample(name, float64(s.memory.PageFaults), noTime, s.labels, `failure_type="pgfault"`, l)
			w.sample(name, float64(s.memory.MajorFault), noTime, s.labels, `failure_type="pgmajfault"`, l)
		}
	}
}

func (w *cadvisor) network(all []series) {
	for _, m := range []struct {
		name, help string
		value      func(i *netInterface) uint64
	}{
		{"receive_bytes", "Cumulative count of bytes received", func(i *netInterface) uint64 { return i.rxBytes }},
		{"receive_packets", "Cumulative count of packets received", func(i *netInterface) uint64 { return i.rxPackets }},
		{"receive_packets_dropped", "Cumulative count of packets dropped while receiving", func(i *netInterface) uint64 { return i.rxDrop }},
		{"receive_errors", "Cumulative count of errors encountered while receiving", func(i *netInterface) uint64 { return i.rxErrors }},
		{"transmit_bytes", "Cumulative count of bytes transmitted", func(i *netInterface) uint64 { return i.txBytes }},
		{"transmit_packets", "Cumulative count of packets transmitted", func(i *netInterface) uint64 { return i.txPackets }},
		{"transmit_packets_dropped", "Cumulative count of packets dropped while transmitting", func(i *netInterface) uint64 { return i.txDrop }},
		{"transmit_errors", "Cumulative count of errors encountered while transmitting", func(i *netInterface) uint64 { return i.txErrors }},
	} {
		name := "container_network_" + m.name + "_total"
		w.family(name, counter, m.help)
		for i := range all {
			for j := range all[i].net {
				n := &all[i].net[j]
				w.sample(name, float64(m.value(n)), noTime, labels("interface", n.name), all[i].labels)
			}
		}
	}
}

func (w *cadvisor) disks(all []series) {
	for _, m := range []struct {
		name, help string
		value      func(s *series) uint64
	}{
		{"container_fs_usage_bytes", "Number of bytes that are consumed by the container on this filesystem.", func(s *series) uint64 { return s.used }},
		{"container_fs_limit_bytes", "Number of bytes that can be consumed by the container on this filesystem.", func(s *series) uint64 { return s.fs.capacity }},
		{"container_fs_inodes_free", "Number of available Inodes", func(s *series) uint64 { return s.fs.inodesFree }},
		{"container_fs_inodes_total", "Number of Inodes", func(s *series) uint64 { return s.fs.inodes }},
	} {
		w.family(m.name, gauge, m.help)
		for i := range all {
			if all[i].hasFS {
				w.sample(m.name, float64(m.value(&all[i])), noTime, all[i].labels, `device=""`)
			}
		}
	}
	devices := deviceNames()
	for _, m := range []struct{ name, help string }{
		{"reads_bytes", "Cumulative count of bytes read"}, {"writes_bytes", "Cumulative count of bytes written"},
		{"reads", "Cumulative count of reads completed"}, {"writes", "Cumulative count of writes completed"},
	} {
		name := "container_fs_" + m.name + "_total"
		w.family(name, counter, m.help)
		for i := range all {
			for _, d := range all[i].io {
				value := map[string]uint64{"reads_bytes": d.ReadBytes, "writes_bytes": d.WrittenBytes, "reads": d.Reads, "writes": d.Writes}[m.name]
				device := d.Device
				if known := devices[device]; known != "" {
					device = known
				}
				w.sample(name, float64(value), noTime, labels("device", device), all[i].labels)
			}
		}
	}
}

// deviceNames are the block devices by number, as /dev/NAME.
func deviceNames() map[string]string {
	out := map[string]string{}
	entries, _ := os.ReadDir("/sys/dev/block")
	for _, e := range entries {
		if target, err := os.Readlink("/sys/dev/block/" + e.Name()); err == nil {
			out[e.Name()] = "/dev/" + target[strings.LastIndexByte(target, '/')+1:]
		}
	}
	return out
}

func (w *cadvisor) machine() {
	ids := labels("boot_id", lineOf("/proc/sys/kernel/random/boot_id"), "machine_id", lineOf("/etc/machine-id"), "system_uuid", lineOf("/sys/class/dmi/id/product_uuid"))
	memory, swap := memoryOfHost()
	for _, m := range []struct {
		name, help string
		value      float64
	}{
		{"machine_cpu_cores", "Number of logical CPU cores.", float64(runtime.NumCPU())},
		{"machine_memory_bytes", "Amount of memory installed on the machine.", float64(memory)},
		{"machine_swap_bytes", "Amount of swap memory available on the machine.", float64(swap)},
	} {
		w.family(m.name, gauge, m.help)
		w.sample(m.name, m.value, noTime, ids)
	}
	w.family("machine_scrape_error", gauge, "1 if there was an error while getting machine metrics, 0 otherwise.")
	w.sample("machine_scrape_error", 0, noTime)
	w.family("cadvisor_version_info", gauge, "A metric with a constant '1' value labeled by kernel version, OS version, docker version, cadvisor version & cadvisor revision.")
	w.sample("cadvisor_version_info", 1, noTime, labels("cadvisorRevision", "", "cadvisorVersion", "", "dockerVersion", "",
		"kernelVersion", lineOf("/proc/sys/kernel/osrelease"), "osVersion", runtime.GOOS))
}

func lineOf(file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}
