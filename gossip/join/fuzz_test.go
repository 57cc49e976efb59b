package join

import (
	"bytes"
	"encoding/binary"
	"reflect"
	"testing"
)

func seeds(f *testing.F) {
	for _, s := range []string{
		`{}`, `{"versions":{"oldest":1,"newest":2},"clock":"2026-01-02T03:04:05Z"}`,
		`{"tokenId":"abcdef","secret":"0123456789abcdef","name":"host2","addresses":["192.0.2.2","2001:db8::1"],"csr":"MII="}`,
		`{"welcome":{"version":1,"clock":"2026-01-02T03:04:05Z"}}`,
		`{"refusal":{"code":"clock-skew","skew":600000000000,"speaks":{"oldest":1,"newest":1}}}`,
		`{"grant":{"certificate":"MII=","ca":"MII=","gossipKeys":["AAAA"],"peers":["192.0.2.1:7946"],"serviceCIDR":"10.0.0.0/16","tag":7}}`,
		`{"refusal":{},"welcome":{}}`, `{"grant":{}}`, `{"addresses":["x"]}`,
	} {
		f.Add(append(binary.BigEndian.AppendUint32(nil, uint32(len(s))), s...))
	}
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, '{'})
	f.Add([]byte{0, 0, 0, 9, '{'})
}

// survives reads a message; what is accepted must be the same after writing it.
func survives[T any](t *testing.T, data []byte) {
	var first T
	if readMessage(bytes.NewReader(data), &first) != nil {
		return
	}
	var wire bytes.Buffer
	if err := writeMessage(&wire, first); err != nil {
		if wire.Len() == 0 && len(data) > maxMessage/8 {
			return // escapes made it longer than the limit
		}
		t.Skip(err) // a time outside what JSON can say
	}
	var second T
	if err := readMessage(&wire, &second); err != nil {
		t.Fatalf("%+v cannot be read again: %v", first, err)
	}
	var again bytes.Buffer
	if err := writeMessage(&again, second); err != nil {
		t.Fatal(err)
	}
	var third T
	if err := readMessage(&again, &third); err != nil || !reflect.DeepEqual(second, third) {
		t.Fatalf("%+v became %+v, %v", second, third, err)
	}
}

func FuzzRequest(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		survives[hello](t, data)
		var r request
		if readMessage(bytes.NewReader(data), &r) == nil && (len(r.Addresses) > maxAddresses || len(r.CSR) > maxRequestBytes || r.Name == "") {
			t.Fatalf("accepted %+v", r)
		}
		survives[request](t, data)
	})
}

func FuzzAnswer(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		var a answer
		if readMessage(bytes.NewReader(data), &a) == nil && a.Refusal != nil && a.Refusal.Error() == "" {
			t.Fatal("a refusal without words")
		}
		survives[answer](t, data)
	})
}
