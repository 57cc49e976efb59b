//go:build linux

package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"
	clientscheme "k8s.io/client-go/kubernetes/scheme"

	"shoal/api"
	"shoal/api/fields"
	"shoal/api/joining"
	"shoal/api/pki"
	"shoal/gossip/join"
	"shoal/gossip/join/token"
	"shoal/store"
)

// gossipOptions is what a cellNode is made from.
type gossipOptions struct {
	Identity    identity
	DB          *store.DB
	Certificate *pki.Pair // the node's
	CA          []byte    // PEM
	Keys        [][]byte  // the keyring
	NodeIP      netip.Addr
	Port        int // gossip; record streams are on the next one
	// Join is the service to hand connections with ALPN join.Protocol to; it
	// returns nil until the API answers.
	Join  func() *join.Service
	Clock store.Clock
	// Part notes on disk that this host is no member any more.
	Part func(why string) error
	// Version is this binary's, API where the API is served, host:port.
	Version, API string
	Logger       *slog.Logger
}

// snapshotTimeout bounds the wait for a peer's records. A cell of the largest
// size named in the design takes seconds.
const snapshotTimeout = 5 * time.Minute

// enter makes this host a member and opens its store: it founds a cell, goes on
// as the member it was, or joins one.
func (p *peer) enter(ctx context.Context) error {
	c := p.config
	id, err := loadIdentity(c.DataDir)
	if err != nil {
		return err
	}
	if id != nil && id.Left != "" {
		if c.Join == "" {
			return errNoMember(id, c.DataDir)
		}
		if err := setAside(c.DataDir, id); err != nil {
			return err
		}
		id = nil
	}
	member := id != nil || hasState(c.DataDir)
	switch {
	case member && c.Join != "":
		p.log.Info("this host is a member of a cell already; --join is ignored", "dataDir", c.DataDir)
	case c.Join != "":
		if id, err = p.join(ctx); err != nil {
			return err
		}
	}
	if id != nil {
		if err := id.check(c.Name); err != nil {
			return err
		}
		p.identity = *id
		if err := p.checkStore(); err != nil {
			return err
		}
	} else {
		p.identity = identity{Name: c.Name, Tag: joining.FirstTag}
	}
	if err := p.openStore(ctx); err != nil {
		return err
	}
	if id == nil && len(membersIn(p.db)) > 0 {
		return fmt.Errorf("%s is missing, and the store beside it is of a cell with other hosts: who this host is there cannot be told; restore that file from a backup, or run `shoal node forget` for this host on a member, remove the data directory and join again", filepath.Join(c.DataDir, identityFile))
	}
	if id != nil {
		if err := p.keepNumber(ctx); err != nil {
			return err
		}
	}
	if p.identity.Joined {
		err = p.enterJoined(ctx)
	} else {
		err = p.enterFounder(ctx, id == nil)
	}
	if err == nil {
		err = p.settle(ctx)
	}
	if err == nil {
		err = p.node.register(ctx)
	}
	return err
}

// checkStore looks what to do about a member without a store: it comes back as
// a new actor by a peer's snapshot, if there are peers.
func (p *peer) checkStore() error {
	if hasState(p.config.DataDir) || p.identity.Joined {
		return nil
	}
	if len(p.identity.Peers) == 0 {
		return fmt.Errorf("%s is missing or empty, and this host was the only one of its cell: its records are lost here; put the directory back, or remove %s and use `shoal restore` with a backup, or begin a new cell there",
			filepath.Join(p.config.DataDir, storeDir), p.config.DataDir)
	}
	p.log.Warn("the store is gone; this host comes back by the records of its peers", "store", filepath.Join(p.config.DataDir, storeDir))
	p.identity.Joined = true
	return p.identity.save(p.config.DataDir)
}

// hasState tells a host with a store from one that is new.
func hasState(dataDir string) bool {
	entries, err := os.ReadDir(filepath.Join(dataDir, storeDir))
	return err == nil && len(entries) > 0
}

func (p *peer) openStore(ctx context.Context) error {
	return p.progress.step("store opened", func() (err error) {
		p.db, err = p.config.openStore(ctx, store.Options{
			Tag: p.identity.Tag, Logger: p.log.With("part", "store"), Clock: p.clock,
			Fields: fields.New(clientscheme.Scheme), Published: p.spread, Displaced: p.displaced,
			Joining: p.identity.Joined, Short: p.holdPods,
			Frees: func(_ string, value []byte) bool { return fields.Deleting(value) },
		})
		return withTakers(ctx, err, p.config.DataDir, podLogDir)
	})
}

func (p *peer) pkiDir() string { return filepath.Join(p.config.DataDir, pkiDir) }

func (p *peer) names() pki.Names {
	return p.config.pkiNames(api.DefaultServiceCIDR.Addr().Next().AsSlice())
}

// enterFounder keeps the cell's keys in files and store, made on the first start.
func (p *peer) enterFounder(ctx context.Context, first bool) error {
	if err := p.progress.step("certificates in "+p.pkiDir(), func() (err error) {
		p.files, err = pki.Found(ctx, p.pkiDir(), api.CellRecords(p.db), p.names(), time.Now())
		return err
	}); err != nil {
		return err
	}
	node, err := pki.NewPair(p.files.Node, p.files.NodeKey).Certificate()
	if err != nil {
		return err
	}
	if p.identity.Tag == joining.FirstTag {
		if err := (joining.Tags{Records: api.CellRecords(p.db)}).ClaimFirst(ctx, p.config.Name, node.Leaf.PublicKey); err != nil {
			return err
		}
	}
	if first {
		ca, err := p.readCA()
		if err != nil {
			return err
		}
		p.identity.Cell = pki.CellID(ca)
		if err := p.identity.save(p.config.DataDir); err != nil {
			return err
		}
	}
	return p.openGossip()
}

// enterJoined makes this host's files from the cell's keys, which come with a
// peer's snapshot at the first start.
func (p *peer) enterJoined(ctx context.Context) error {
	p.files = pki.FilesIn(p.pkiDir())
	if err := p.openGossip(); err != nil {
		return err
	}
	keys, err := pki.ReadKeys(ctx, api.CellRecords(p.db))
	// A snapshot that was broken off is begun again: before it is whole, this
	// host holds nothing of the cell.
	if errors.Is(err, pki.ErrNoKeys) || err == nil && p.db.Joining() {
		// A snapshot is only given to who is known as a member.
		if err := p.node.register(ctx); err != nil {
			return err
		}
		if err := p.progress.step("records of the cell fetched", func() error {
			ctx, cancel := context.WithTimeout(ctx, snapshotTimeout)
			defer cancel()
			ctx, fail := context.WithCancelCause(ctx)
			defer fail(nil)
			defer context.AfterFunc(p.gossipLife, func() { fail(context.Cause(p.gossipLife)) })()
			return p.node.AwaitSnapshot(ctx)
		}); err != nil {
			return fmt.Errorf("fetch the cell's records: %w", err)
		}
		keys, err = pki.ReadKeys(ctx, api.CellRecords(p.db))
	}
	if err != nil {
		return err
	}
	return p.progress.step("certificates in "+p.pkiDir(), func() (err error) {
		p.files, err = pki.Materialize(p.pkiDir(), keys, p.names(), time.Now())
		return err
	})
}

// openGossip starts what carries records between peers.
func (p *peer) openGossip() error {
	ca, err := os.ReadFile(p.files.CA)
	if err != nil {
		return fmt.Errorf("read certificate authority: %w", err)
	}
	ring, err := p.ring()
	if err != nil {
		return err
	}
	p.node, err = startGossip(gossipOptions{
		Identity: p.identity, DB: p.db, Certificate: pki.NewPair(p.files.Node, p.files.NodeKey), CA: ca, Keys: ring,
		NodeIP: netip.MustParseAddr(p.config.NodeIP), Port: p.config.GossipPort, Join: p.joins.Load, Logger: p.log.With("part", "gossip"),
		Part: p.part, Clock: p.clock, Version: p.config.Version, API: p.advertisedAPI(),
	})
	if err != nil {
		return err
	}
	p.answerPeers()
	p.publish.Store(p.node.Node)
	ctx, cancel := context.WithCancel(context.Background())
	life, ended := context.WithCancelCause(context.Background())
	p.gossipLife = life
	go func() { ended(p.node.Run(ctx)) }()
	p.stopGossip = func() error {
		cancel()
		<-life.Done()
		if err := context.Cause(life); !errors.Is(err, context.Canceled) && !p.gossipFailed.Load() {
			return fmt.Errorf("gossip: %w", err)
		}
		return nil
	}
	return nil
}

// watchGossip returns an error when gossip ends before the daemon does.
func (p *peer) watchGossip(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-p.gossipLife.Done():
	}
	p.gossipFailed.Store(true)
	return fmt.Errorf("gossip with the cell ended, and a peer that hears nothing must not go on: %w; start the daemon again", context.Cause(p.gossipLife))
}

// spread hands this host's own writes to gossip, once there is one.
func (p *peer) spread(deltas []store.Delta) {
	if n := p.publish.Load(); n != nil {
		n.Publish(deltas)
	}
}

// displaced tells of an object that had to give up its name to an earlier one.
func (p *peer) displaced(key string, kept, lost store.Record) {
	if p.conflicts != nil {
		p.conflicts.Displaced(key, kept, lost)
	}
}

// advertisedAPI is where other hosts reach this one's API.
func (p *peer) advertisedAPI() string {
	_, port, _ := net.SplitHostPort(p.listener.Addr().String())
	return net.JoinHostPort(p.config.NodeIP, port)
}

func (p *peer) ring() ([][]byte, error) {
	data, err := os.ReadFile(p.files.GossipKeys)
	if err != nil {
		return nil, fmt.Errorf("read gossip keyring: %w", err)
	}
	return pki.DecodeRing(data)
}

// join asks the cell's peers in turn for this host's certificate and keeps what
// it is given.
func (p *peer) join(ctx context.Context) (*identity, error) {
	c := p.config
	tok, err := token.Parse(c.Token)
	if err != nil {
		return nil, fmt.Errorf("--token: %w", err)
	}
	csr, err := pki.Request(p.pkiDir(), c.Name)
	if err != nil {
		return nil, err
	}
	addresses, err := streamAddresses(c.Join)
	if err != nil {
		return nil, err
	}
	joiner := join.Joiner{Token: tok, Name: c.Name, Addresses: []netip.Addr{netip.MustParseAddr(c.NodeIP)}, CSR: csr, Settings: c.said()}
	var grant *join.Grant
	if err := p.progress.step("cell joined", func() (err error) {
		grant, err = joinAny(ctx, joiner, addresses)
		return err
	}); err != nil {
		return nil, err
	}
	if grant.ServiceCIDR != api.DefaultServiceCIDR {
		return nil, fmt.Errorf("the cell's services are in %s, this shoal's in %s; install the cell's version here", grant.ServiceCIDR, api.DefaultServiceCIDR)
	}
	if has, known := grant.Settings[podRangeSetting]; known && has != api.PodRange.String() {
		return nil, fmt.Errorf("the cell's pods are in %s, this shoal's in %s; install the cell's version here", has, api.PodRange)
	}
	if err := pki.SaveJoined(p.pkiDir(), grant.Certificate, grant.CA, grant.GossipKeys); err != nil {
		return nil, err
	}
	id := &identity{Cell: tok.Cell, Name: c.Name, Tag: store.Tag(grant.Tag), Joined: true, Peers: grant.Peers}
	return id, id.save(c.DataDir)
}

// joinAny tries the addresses until one lets this host in or gives a reason
// that holds for all.
func joinAny(ctx context.Context, joiner join.Joiner, addresses []string) (*join.Grant, error) {
	var problems []error
	for _, address := range addresses {
		grant, err := joiner.Join(ctx, address)
		if err == nil {
			return grant, nil
		}
		problems = append(problems, err)
		var refusal *join.Refusal
		if errors.As(err, &refusal) && refusal.Code != join.Unable && refusal.Code != join.TooMany && refusal.Code != join.WrongCell {
			return nil, err
		}
	}
	return nil, errors.Join(problems...)
}

// streamAddresses reads --join: gossip addresses, HOST or HOST:PORT, separated
// by commas; the join service is on the port after each.
func streamAddresses(list string) ([]string, error) {
	var out []string
	for _, text := range strings.Split(list, ",") {
		text = strings.TrimSpace(text)
		host, port, err := net.SplitHostPort(text)
		if err != nil {
			host, port = strings.Trim(text, "[]"), strconv.Itoa(DefaultGossipPort)
		}
		n, err := strconv.Atoi(port)
		if err != nil || n < 1 || n > 65534 || host == "" || strings.ContainsAny(host, "/ ") {
			return nil, fmt.Errorf("--join %q: want HOST or HOST:PORT, the gossip address of a host of the cell", text)
		}
		out = append(out, net.JoinHostPort(host, strconv.Itoa(n+1)))
	}
	return out, nil
}

func (p *peer) readCA() (*x509.Certificate, error) {
	data, err := os.ReadFile(p.files.CA)
	if err != nil {
		return nil, fmt.Errorf("read certificate authority: %w", err)
	}
	return pki.ReadCA(data)
}

// serveJoins lets hosts join through this one, from when the API answers.
func (p *peer) serveJoins(client kubernetes.Interface) error {
	ca, err := p.readCA()
	if err != nil {
		return err
	}
	service := join.NewService(join.Options{
		Tokens: joining.Tokens{Client: client},
		Names:  joining.Names{Client: client, Member: p.memberAlive},
		Tags:   joining.Tags{Records: api.CellRecords(p.db)},
		Issuer: pki.NewIssuer(p.files), Certificate: pki.NewPair(p.files.Node, p.files.NodeKey).Certificate, CA: ca,
		Cell: p.describeCell, Logger: p.log.With("part", "join"),
	})
	p.joins.Store(service)
	return nil
}

func (p *peer) memberAlive(name string) bool {
	return name == p.config.Name || p.node.Alive(name)
}

func (p *peer) describeCell(ctx context.Context) (join.Cell, error) {
	ring, err := p.ring()
	if err != nil {
		return join.Cell{}, err
	}
	settings, err := joining.Settings{Records: api.CellRecords(p.db)}.All(ctx)
	if err != nil {
		return join.Cell{}, err
	}
	peers := []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr(p.config.NodeIP), uint16(p.config.GossipPort))}
	for _, a := range p.node.Addresses() {
		if a != peers[0] {
			peers = append(peers, a)
		}
	}
	return join.Cell{GossipKeys: ring, Peers: peers, ServiceCIDR: api.DefaultServiceCIDR, Settings: settings}, nil
}

// keepCertificates renews this host's certificates while it runs.
func (p *peer) keepCertificates(ctx context.Context, server, kubeconfig string) error {
	keeper := &pki.Keeper{
		Files: p.files, Names: p.names(), Clock: systemClock{}, Logger: p.log.With("part", "pki"),
		Renewed: func([]string) { // the kubeconfigs hold a copy of the administrator's
			err := api.WriteKubeconfig(kubeconfig, server, p.files)
			if err == nil && p.config.WriteKubeconfig != "" {
				err = api.MergeKubeconfig(p.config.WriteKubeconfig, server, p.files)
			}
			if err != nil {
				p.log.Error("kubeconfig could not be renewed; restart the daemon to try again", "error", err)
			}
		},
	}
	return keeper.Run(ctx)
}

type systemClock struct{}

func (systemClock) Now() time.Time                         { return time.Now() }
func (systemClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// agentCertificate is the agent's current one, for its server.
func agentCertificate(files pki.Files) (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	pair := pki.NewPair(files.AgentServer, files.AgentServerKey)
	if _, err := pair.Certificate(); err != nil {
		return nil, err
	}
	return pair.ForServer, nil
}
