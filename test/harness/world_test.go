package harness

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var world *World

func TestMain(m *testing.M) {
	os.Exit(Main(func(w *World) int {
		world = w
		return m.Run()
	}))
}

func TestWorldIsPrivate(t *testing.T) {
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if link.Name != "lo" && link.Name != "eth0" && !strings.HasPrefix(link.Name, "tunl") && !strings.HasPrefix(link.Name, "sit") {
			t.Errorf("the world has a link %s", link.Name)
		}
	}
	if entries, err := os.ReadDir("/run"); err != nil || len(entries) > 0 {
		t.Errorf("/run holds %v, %v", entries, err)
	}
	self, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(self), "0::"+world.Cgroup+"\n") {
		t.Errorf("this process is in %s", self)
	}
	if dirs, err := CgroupDirs(world.Cgroup); err != nil || len(dirs) != 1 || dirs[0] != world.CgroupDir {
		t.Errorf("cgroups of the world: %v, %v", dirs, err)
	}
}

func TestOtherMachineReachesUs(t *testing.T) {
	listener, err := net.Listen("tcp", NodeAddr+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			_, _ = conn.Write([]byte(conn.RemoteAddr().String()))
			conn.Close()
		}
	}()
	host, port, _ := net.SplitHostPort(listener.Addr().String())
	result := Command{Argv: world.Outside("busybox", "nc", "-w", "2", host, port)}.Run(t.Context())
	if result.Err != nil || !strings.HasPrefix(result.Stdout, OutsideAddr+":") {
		t.Errorf("the other machine saw %q, %v", result.Stdout, result.Err)
	}
}

func TestContainerd(t *testing.T) {
	c, err := StartContainerd(t.Context(), filepath.Join(world.Dir, "containerd"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Stop()
	result := Command{Argv: []string{"ctr", "--address", c.Socket, "version"}}.Run(t.Context())
	if result.Err != nil || !strings.Contains(result.Stdout, "Server:") {
		t.Errorf("%s%v", result.Stdout, result.Err)
	}
}

func TestAlive(t *testing.T) {
	if !Alive(os.Getpid()) {
		t.Error("this process is said to be gone")
	}
	if Alive(1 << 22) {
		t.Error("a process beyond the largest id is said to live")
	}
}
