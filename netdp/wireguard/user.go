package wireguard

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

// user is wireguard-go. It is driven by its configuration protocol
// (https://www.wireguard.com/xplatform/#configuration-protocol), without the socket.
type user struct {
	dev *device.Device
	tun *hostTUN
}

func openUser(o Options) (engine, error) {
	t, err := openTUN(o)
	if err != nil {
		return nil, fmt.Errorf("encrypt without a WireGuard in the kernel: %w", err)
	}
	complaints := &complaints{log: o.Logger}
	logger := &device.Logger{Verbosef: device.DiscardLogf, Errorf: complaints.tell}
	u := &user{dev: device.NewDevice(t, &hostBind{conn.NewStdNetBind(), o.InHost}, logger), tun: t}
	key := o.Key.bytes()
	err = u.dev.IpcSet(fmt.Sprintf("private_key=%s\nlisten_port=%d\n", hex.EncodeToString(key[:]), o.Port))
	if err == nil {
		err = u.dev.Up()
	}
	if err != nil {
		u.dev.Close()
		return nil, fmt.Errorf("start wireguard-go at UDP port %d: it may be taken; find who has it with `ss -ulnp`: %w", o.Port, err)
	}
	return u, nil
}

func (u *user) change(changes []change) error {
	var text strings.Builder
	for _, c := range changes {
		fmt.Fprintf(&text, "public_key=%s\n", hex.EncodeToString(c.Key[:]))
		if c.gone {
			text.WriteString("remove=true\n")
			continue
		}
		if c.endpoint {
			fmt.Fprintf(&text, "endpoint=%s\n", c.Endpoint)
		}
		text.WriteString("replace_allowed_ips=true\n")
		for _, p := range c.Allowed {
			fmt.Fprintf(&text, "allowed_ip=%s\n", p)
		}
	}
	if err := u.dev.IpcSet(text.String()); err != nil {
		return err
	}
	for _, c := range changes {
		// A peer may hold a session with the process before this one, and would
		// send by it for 15 s before it asks: so it is greeted.
		if p := u.dev.LookupPeer(device.NoisePublicKey(c.Key)); c.isNew && p != nil {
			p.SendKeepalive()
		}
	}
	return nil
}

func (u *user) stats() (map[Key]Stats, error) {
	text, err := u.dev.IpcGet()
	if err != nil {
		return nil, err
	}
	return parseStats(text)
}

// complaintInterval is how often wireguard-go is heard at most: it may have
// something to say of each packet.
const complaintInterval = 10 * time.Second

type complaints struct {
	log  *slog.Logger
	last atomic.Int64 // when, in nanoseconds since 1970
}

func (c *complaints) tell(format string, args ...any) {
	now, last := time.Now().UnixNano(), c.last.Load()
	if now-last >= int64(complaintInterval) && c.last.CompareAndSwap(last, now) {
		c.log.Warn("wireguard-go", "message", fmt.Sprintf(format, args...))
	}
}

// parseStats reads what a device tells of its peers.
func parseStats(text string) (map[Key]Stats, error) {
	out := map[Key]Stats{}
	var key Key
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), "=")
		if name == "public_key" {
			b, err := hex.DecodeString(value)
			if err != nil || len(b) != keySize {
				return nil, errors.New("a peer's key is none")
			}
			key = Key(b)
			out[key] = Stats{}
			continue
		}
		s, of := out[key]
		if !of || name != "last_handshake_time_sec" && name != "tx_bytes" && name != "rx_bytes" {
			continue
		}
		n, err := strconv.ParseUint(value, 10, 63)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		switch {
		case name == "tx_bytes":
			s.Sent = n
		case name == "rx_bytes":
			s.Received = n
		case n > 0:
			s.Handshake = time.Unix(int64(n), 0)
		}
		out[key] = s
	}
	return out, lines.Err()
}

func (u *user) setMTU(mtu int) error {
	u.tun.setMTU(mtu)
	return nil
}

func (u *user) alive() bool {
	select {
	case <-u.dev.Wait():
		return false
	default:
		return true
	}
}

func (u *user) close() error {
	u.dev.Close()
	return nil
}

// hostTUN is the interface in the host's network namespace. wireguard-go would
// ask for its size, and look for changes, in the namespace of whatever thread
// asks; here it is told.
type hostTUN struct {
	tun.Device
	mtu atomic.Int64

	mu     sync.Mutex // guards the two below
	events chan tun.Event
	closed bool
}

func openTUN(o Options) (*hostTUN, error) {
	t := &hostTUN{events: make(chan tun.Event, 1)}
	t.mtu.Store(int64(o.MTU))
	err := o.InHost(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open /dev/net/tun (CONFIG_TUN; modprobe tun): %w", err)
		}
		request, err := unix.NewIfreq(o.Name)
		if err == nil {
			request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
		}
		if err != nil {
			_ = unix.Close(fd)
			return fmt.Errorf("make interface %s: %w", o.Name, err)
		}
		t.Device, _, err = tun.CreateUnmonitoredTUNFromFD(fd)
		return err
	})
	if err != nil {
		return nil, err
	}
	return t, nil
}

func (t *hostTUN) MTU() (int, error)        { return int(t.mtu.Load()), nil }
func (t *hostTUN) Events() <-chan tun.Event { return t.events }

func (t *hostTUN) setMTU(mtu int) {
	t.mtu.Store(int64(mtu))
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	select {
	case t.events <- tun.EventMTUUpdate:
	default: // one waits, and will find this value
	}
}

func (t *hostTUN) Close() error {
	t.mu.Lock()
	if !t.closed {
		t.closed = true
		close(t.events)
	}
	t.mu.Unlock()
	err := t.Device.Close()
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// hostBind opens its sockets in the host's network namespace.
type hostBind struct {
	conn.Bind
	inHost func(func() error) error
}

func (b *hostBind) Open(port uint16) (receive []conn.ReceiveFunc, actual uint16, err error) {
	err = b.inHost(func() (err error) {
		receive, actual, err = b.Bind.Open(port)
		return err
	})
	return receive, actual, err
}
