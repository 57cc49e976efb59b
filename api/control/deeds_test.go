package control

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "shoal/api/control/v1"
)

func post(t *testing.T, url, body string) (status int, answer string) {
	t.Helper()
	response, err := http.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	var refusal v1.Refusal
	if json.Unmarshal(content, &refusal) == nil && refusal.Error != "" {
		return response.StatusCode, refusal.Error
	}
	return response.StatusCode, string(content)
}

func threePeers() []v1.Peer {
	return []v1.Peer{{Name: "host1", State: v1.Alive}, {Name: "host2", State: v1.Alive}, {Name: "host3", State: v1.Failed}}
}

func TestDeeds(t *testing.T) {
	for _, test := range []struct {
		name, path, body string
		alone            bool
		err              error
		status           int
		says             string
		deeds            []string
	}{
		{name: "leave", path: v1.LeavePath, body: `{"peer":"host1"}`, status: 200, says: "host1 has left", deeds: []string{"depart", "leave", "quit"}},
		{name: "leave, pods kept", path: v1.LeavePath, body: `{"peer":"host1","keepPods":true}`, status: 200, says: "without a cell", deeds: []string{"depart with pods kept", "leave", "quit"}},
		{name: "leave meant for another", path: v1.LeavePath, body: `{"peer":"host2"}`, status: 409, says: "this is peer host1, not host2"},
		{name: "leave alone", path: v1.LeavePath, body: `{"peer":"host1"}`, alone: true, status: 409, says: "this cell has one peer"},
		{name: "leave unheard", path: v1.LeavePath, body: `{"peer":"host1"}`, err: errDown, status: 500, says: "node forget host1", deeds: []string{"depart", "leave"}},
		{name: "forget a failed one", path: v1.ForgetPath, body: `{"name":"host3"}`, status: 200, says: "host3 is forgotten", deeds: []string{"forget host3", "remove node host3"}},
		{name: "forget one alive", path: v1.ForgetPath, body: `{"name":"host2"}`, status: 409, says: "host2 is alive"},
		{name: "forget oneself", path: v1.ForgetPath, body: `{"name":"host1"}`, status: 409, says: "host1 is alive"},
		{name: "forget an unknown one", path: v1.ForgetPath, body: `{"name":"hots3"}`, status: 404, says: "there are: host1, host2, host3"},
		{name: "forget alone", path: v1.ForgetPath, body: `{"name":"host1"}`, alone: true, status: 409, says: "this cell has one peer"},
		{name: "rotate", path: v1.RotateKeysPath, status: 200, says: "replaced on all peers", deeds: []string{"rotate"}},
		{name: "rotate alone", path: v1.RotateKeysPath, alone: true, status: 409, says: "this cell has one peer"},
		{name: "rotate fails", path: v1.RotateKeysPath, err: errDown, status: 500, says: "the network is down", deeds: []string{"rotate"}},
		{name: "encrypt", path: v1.EncryptionPath, body: `{"on":true}`, status: 200, says: "between hosts is on;", deeds: []string{"encrypt true"}},
		{name: "encrypt already", path: v1.EncryptionPath, body: `{"on":false}`, status: 200, says: "is off already", deeds: []string{"encrypt false"}},
		{name: "encrypt fails", path: v1.EncryptionPath, body: `{"on":true}`, err: errDown, status: 500, says: "the network is down", deeds: []string{"encrypt true"}},
		{name: "no JSON", path: v1.ForgetPath, body: `{{`, status: 400, says: "read request"},
		{name: "more than is understood", path: v1.LeavePath, body: `{"peer":"host1","drain":true}`, status: 400, says: "drain"},
		{name: "an endless body", path: v1.ForgetPath, body: `{"name":"` + strings.Repeat("x", 2*maxBodyBytes), status: 400, says: "too large"},
		{name: "an unknown path", path: v1.Prefix + "reboot", status: 404, says: "nothing this peer knows"},
	} {
		t.Run(test.name, func(t *testing.T) {
			host := &testHost{}
			o := Options{Store: openStore(t), Host: host, Encryption: &testEncryption{host: host, err: test.err}}
			if !test.alone {
				o.Members = &testMembers{host: host, peers: threePeers(), err: test.err}
			}
			_, url := serve(t, o)
			status, says := post(t, url+test.path, test.body)
			if status != test.status || !strings.Contains(says, test.says) {
				t.Errorf("got %d %q, want %d with %q", status, says, test.status, test.says)
			}
			if !slices.Equal(host.deeds, test.deeds) {
				t.Errorf("did %q, want %q", host.deeds, test.deeds)
			}
		})
	}
}

func TestAlarms(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	day := 24 * time.Hour
	lag, skew := uint64(20_000), 600.0
	for _, test := range []struct {
		name   string
		status v1.Status
		codes  []string
	}{
		{"well", v1.Status{Disk: v1.Disk{FreeBytes: 50, TotalBytes: 100},
			Certificates: []v1.Certificate{{Name: "a", Renews: now.Add(day), Expires: now.Add(100 * day)}, {Name: "ca", Expires: now.Add(1000 * day)}},
			Peers:        []v1.Peer{{Name: "a", State: v1.Alive, Version: "1"}, {Name: "b", State: v1.Left, Version: "0"}}}, nil},
		{"disk low", v1.Status{Disk: v1.Disk{FreeBytes: 9, TotalBytes: 100}}, []string{"disk-low"}},
		{"disk full", v1.Status{Disk: v1.Disk{FreeBytes: 1, TotalBytes: 100}, Store: v1.Store{Refusing: true}}, []string{"disk-full"}},
		{"certificate expired", v1.Status{Certificates: []v1.Certificate{{Renews: now.Add(-9 * day), Expires: now}}}, []string{"certificate-expired"}},
		{"certificate not renewed", v1.Status{Certificates: []v1.Certificate{{Renews: now.Add(-2 * day), Expires: now.Add(day)}}}, []string{"certificate-not-renewed"}},
		{"authority ends", v1.Status{Certificates: []v1.Certificate{{Expires: now.Add(30 * day)}}}, []string{"authority-expires"}},
		{"peer failed", v1.Status{Peers: []v1.Peer{{State: v1.Failed, Version: "1"}, {State: v1.Alive, Version: "2"}}}, []string{"peer-failed"}},
		{"behind and ahead", v1.Status{Peers: []v1.Peer{{State: v1.Alive, LagDeltas: &lag, SkewMillis: &skew}}}, []string{"peer-lagging", "clock-skew"}},
		{"two releases", v1.Status{Peers: []v1.Peer{{State: v1.Alive, Version: "1"}, {State: v1.Alive, Version: "2"}}}, []string{"versions-differ"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.status.Time = now
			var codes []string
			for _, a := range alarms(&test.status) {
				codes = append(codes, a.Code)
				if a.Title == "" || a.Fix == "" || a.Severity == "" {
					t.Errorf("an alarm says too little: %+v", a)
				}
			}
			if !slices.Equal(codes, test.codes) {
				t.Errorf("got %q, want %q", codes, test.codes)
			}
		})
	}
}

// The worst alarm comes first, and what only this host knows of itself is shown
// also where gossip names the peers.
func TestStatus(t *testing.T) {
	db := openStore(t)
	put(t, db, "/registry/a/b", "u", "v", 0)
	host := &testHost{disk: v1.Disk{FreeBytes: 5, TotalBytes: 100}}
	_, url := serve(t, Options{Store: db, Host: host, Members: &testMembers{host: host, peers: threePeers()}})
	response := get(t, url+v1.StatusPath)
	defer func() { _ = response.Body.Close() }()
	var status v1.Status
	if err := json.NewDecoder(response.Body).Decode(&status); err != nil {
		t.Fatal(err)
	}
	if len(status.Alarms) != 2 || status.Alarms[0].Code != "peer-failed" || status.Alarms[1].Code != "disk-low" {
		t.Errorf("alarms %+v", status.Alarms)
	}
	if len(status.Peers) != 3 || status.Peers[0].API != "192.0.2.1:6443" || status.Peers[0].Actor == "" || status.Store.Records != 1 {
		t.Errorf("status %+v", status)
	}
}
