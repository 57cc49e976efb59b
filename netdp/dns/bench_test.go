package dns

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"shoal/netdp/dns/forward"
	"shoal/netdp/dns/records"
)

const (
	// benchServer, in the environment, has this program be the server.
	benchServer = "SHOAL_DNS_BENCH_SERVER"
	// benchServices are in the index, benchNames of them are asked for, by
	// benchAskers that each wait for their answer.
	benchServices, benchNames, benchAskers = 10_000, 1_000, 32
	benchQuestions                         = 200_000
	// benchRate is the load at which the time of an answer is taken, a second.
	benchRate = 30_000
	// benchChurn is how often the index changes meanwhile, as in a busy cell.
	benchChurn = 100 * time.Millisecond
)

func TestMain(m *testing.M) {
	if os.Getenv(benchServer) != "" {
		if err := serveForBench(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// serveForBench serves on one core until its input ends.
func serveForBench() error {
	runtime.GOMAXPROCS(1)
	index := records.New("cluster.local", netip.MustParsePrefix("10.0.0.0/16"))
	index.SetNamespace("default", true)
	for i := range benchServices {
		index.SetService(benchService(i), nil)
	}
	log := slog.New(slog.DiscardHandler)
	f := forward.New(forward.Options{ResolvConf: "/nonexistent", Own: func(netip.Addr) bool { return false }, Logger: log})
	defer f.Close()
	always := func() bool { return true }
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	s, err := Listen(ctx, Options{Address: netip.MustParseAddr("127.0.0.1"), Index: index, Forward: f, Synced: always,
		Allowed: func(a netip.Addr) bool { return a.IsLoopback() }, Logger: log})
	if err != nil {
		return err
	}
	var churn sync.WaitGroup
	churn.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			index.SetNamespace("coming-and-going", i%2 == 0)
			time.Sleep(benchChurn)
		}
	})
	fmt.Println(s.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	err = s.Run(ctx)
	churn.Wait()
	return err
}

func benchService(i int) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("service-%d", i)},
		Spec:       corev1.ServiceSpec{ClusterIP: fmt.Sprintf("10.0.%d.%d", i>>8, i&255)},
	}
}

// BenchmarkServer asks a server in a process of its own, which has one core. It
// reports answers for each second of that process's time on a processor, and the
// time of an answer at a fixed load, which has this side's own waiting in it.
func BenchmarkServer(b *testing.B) {
	binary, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	server := exec.Command(binary)
	server.Env = append(os.Environ(), benchServer+"=1")
	server.Stderr = os.Stderr
	input, err := server.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	output, err := server.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := server.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() {
		_ = input.Close()
		if err := server.Wait(); err != nil {
			b.Error(err)
		}
	}()
	addr, err := bufio.NewReader(output).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	addr = strings.TrimSpace(addr)
	for b.Loop() {
		ask(b, addr, benchQuestions/10, 0) // until everything is warm
		began, busy := time.Now(), cpuTime(b, server.Process.Pid)
		ask(b, addr, benchQuestions, 0)
		took, used := time.Since(began), cpuTime(b, server.Process.Pid)-busy
		b.ReportMetric(benchQuestions/used.Seconds(), "answers/core-s")
		b.ReportMetric(benchQuestions/took.Seconds(), "answers/s")
		times := ask(b, addr, benchRate*3, benchRate)
		slices.Sort(times)
		b.ReportMetric(float64(times[len(times)/2])/float64(time.Millisecond), "p50-ms")
		b.ReportMetric(float64(times[len(times)*99/100])/float64(time.Millisecond), "p99-ms")
	}
}

// cpuTime is how long a process has been on a processor.
func cpuTime(b *testing.B, pid int) time.Duration {
	b.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil {
		b.Fatal(err)
	}
	var sum time.Duration
	for _, path := range tasks {
		data, err := os.ReadFile(path)
		if err != nil {
			continue // a thread that ended
		}
		ns, err := strconv.ParseInt(strings.Fields(string(data))[0], 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		sum += time.Duration(ns)
	}
	return sum
}

// ask sends a number of questions and returns how long each answer took; rate is
// of all a second, 0 for as fast as they come.
func ask(b *testing.B, addr string, questions, rate int) []time.Duration {
	b.Helper()
	var wg sync.WaitGroup
	times := make([][]time.Duration, benchAskers)
	errs := make(chan error, benchAskers)
	for i := range benchAskers {
		wg.Go(func() {
			var err error
			if times[i], err = askAlone(addr, questions/benchAskers, rate, i); err != nil {
				errs <- err
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		b.Fatal(err)
	default:
	}
	return slices.Concat(times...)
}

func askAlone(addr string, questions, rate, seed int) ([]time.Duration, error) {
	conn, err := net.Dial("udp", addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	chance := rand.New(rand.NewPCG(uint64(seed), 0))
	packets, err := benchPackets()
	if err != nil {
		return nil, err
	}
	times := make([]time.Duration, 0, questions)
	answer := make([]byte, 4096)
	began := time.Now()
	for i := range questions {
		if rate > 0 { // what was missed is caught up with
			time.Sleep(time.Until(began.Add(time.Duration(i) * benchAskers * time.Second / time.Duration(rate))))
		}
		packet := packets[chance.IntN(len(packets))]
		sent := time.Now()
		_ = conn.SetDeadline(sent.Add(5 * time.Second))
		if _, err := conn.Write(packet); err != nil {
			return nil, err
		}
		n, err := conn.Read(answer)
		if err != nil {
			return nil, err
		}
		times = append(times, time.Since(sent))
		if n < len(packet) || answer[0] != packet[0] || answer[1] != packet[1] {
			return nil, fmt.Errorf("%x is no answer to %x", answer[:n], packet)
		}
	}
	return times, nil
}

// benchPackets are what a C library asks: both kinds of addresses, and a name
// from the search list that is not there.
func benchPackets() ([][]byte, error) {
	var out [][]byte
	for i := range benchNames {
		name := fmt.Sprintf("service-%d.default.svc.cluster.local.", i*benchServices/benchNames)
		for _, q := range []struct {
			name  string
			qtype uint16
		}{{name, dns.TypeA}, {name, dns.TypeAAAA}, {"www.example.com." + name, dns.TypeA}} {
			m := new(dns.Msg).SetQuestion(q.name, q.qtype)
			data, err := m.Pack()
			if err != nil {
				return nil, err
			}
			out = append(out, data)
		}
	}
	return out, nil
}
