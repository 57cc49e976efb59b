package api

import (
	"context"
	"fmt"

	"shoal/api/claims"
)

// The cell's choice whether what pods of two hosts say to each other is encrypted
// is one record for all hosts. Without it nothing is.
const (
	encryptionKey = "/shoal/cell/encryption"

	// EncryptionOff and EncryptionWireGuard are what the record may say.
	EncryptionOff       = "off"
	EncryptionWireGuard = "wireguard"
)

// Encrypts tells what the cell has chosen.
func Encrypts(ctx context.Context, records claims.Records) (bool, error) {
	found, err := records.ListRecords(ctx, encryptionKey)
	if err != nil {
		return false, fmt.Errorf("read whether the cell encrypts: %w", err)
	}
	return encryptionOn(found[encryptionKey]), nil
}

func encryptionOn(value []byte) bool { return string(value) == EncryptionWireGuard }

// encryptTries bounds how often a choice is written anew, as another peer's came
// between.
const encryptTries = 10

// SetEncryption chooses for the cell. It tells whether that changed anything.
func SetEncryption(ctx context.Context, records claims.Records, on bool) (changed bool, err error) {
	value := []byte(EncryptionOff)
	if on {
		value = []byte(EncryptionWireGuard)
	}
	for range encryptTries {
		found, err := records.ListRecords(ctx, encryptionKey)
		if err != nil {
			return false, fmt.Errorf("choose whether the cell encrypts: %w", err)
		}
		old, there := found[encryptionKey]
		if encryptionOn(old) == on {
			return false, nil
		}
		var done bool
		if there {
			done, err = records.ReplaceRecord(ctx, encryptionKey, old, value)
		} else {
			done, err = records.CreateRecord(ctx, encryptionKey, value)
		}
		if err != nil {
			return false, fmt.Errorf("choose whether the cell encrypts: %w", err)
		}
		if done {
			return true, nil
		}
	}
	return false, fmt.Errorf("choose whether the cell encrypts: others chose at the same time, %d times; try again", encryptTries)
}

// FollowEncryption calls heard with the cell's choice, and with each that follows,
// until ctx ends.
func FollowEncryption(ctx context.Context, records claims.Records, heard func(on bool)) error {
	err := records.FollowRecords(ctx, encryptionKey,
		func(all map[string][]byte) { heard(encryptionOn(all[encryptionKey])) },
		func(key string, value []byte) {
			if key == encryptionKey {
				heard(encryptionOn(value))
			}
		})
	if err != nil {
		return fmt.Errorf("follow whether the cell encrypts: %w", err)
	}
	return nil
}
