package backup

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

// sample is a small backup.
func sample(t testing.TB) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := NewWriter(&out, Header{Cell: "c0ffee", Peer: "host1", Records: 3, Files: 1})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range sampleEntries() {
		if err := w.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func sampleEntries() []Entry {
	return []Entry{
		{Kind: File, Name: "pki/ca.crt", Content: []byte("pem")},
		{Kind: Record, Name: "/registry/pods/a/b", UID: "u-1", Content: bytes.Repeat([]byte("x"), 300)},
		{Kind: Record, Name: "/registry/events/a/b", UID: "u-2", ExpiresMicros: 1 << 50, Content: []byte("e")},
		{Kind: Record, Name: "/shoal/keys/ca", Content: nil},
	}
}

func verify(data []byte) (uint64, error) {
	r, err := NewReader(bytes.NewReader(data))
	if err != nil {
		return 0, err
	}
	return r.Verify()
}

func TestRoundTrip(t *testing.T) {
	r, err := NewReader(bytes.NewReader(sample(t)))
	if err != nil {
		t.Fatal(err)
	}
	if h := r.Header(); h.Cell != "c0ffee" || h.Format != Format || h.Records != 3 {
		t.Errorf("header: %+v", h)
	}
	for _, want := range sampleEntries() {
		got, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last: %v", err)
	}
}

// Every way to cut or alter one byte is noticed, and named.
func TestDamage(t *testing.T) {
	whole := sample(t)
	for n := range whole {
		var damage *DamagedError
		if _, err := verify(whole[:n]); !errors.As(err, &damage) {
			t.Fatalf("cut to %d of %d bytes: %v", n, len(whole), err)
		} else if n > 200 && !strings.Contains(err.Error(), "cut short after") {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
		for bit := range 8 {
			altered := bytes.Clone(whole)
			altered[n] ^= 1 << bit
			if _, err := verify(altered); err == nil {
				t.Fatalf("bit %d of byte %d flipped: accepted", bit, n)
			}
		}
	}
	if _, err := verify(append(bytes.Clone(whole), 0)); err == nil {
		t.Error("a byte more: accepted")
	}
}

func TestOtherFormat(t *testing.T) {
	other := bytes.Replace(sample(t), []byte(`"format":1`), []byte(`"format":2`), 1)
	if _, err := verify(other); err == nil || !strings.Contains(err.Error(), "its format is 2") {
		t.Errorf("got %v", err)
	}
}

func FuzzReader(f *testing.F) {
	whole := sample(f)
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := NewReader(bytes.NewReader(data))
		if err != nil {
			return
		}
		var again bytes.Buffer
		w, err := NewWriter(&again, r.Header())
		if err != nil {
			t.Fatal(err)
		}
		for {
			e, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return
			}
			if err := w.Add(e); err != nil {
				t.Fatalf("what was read cannot be written: %v", err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := verify(again.Bytes()); err != nil {
			t.Errorf("what was accepted, written again: %v", err)
		}
	})
}
