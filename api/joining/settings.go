package joining

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"shoal/api/claims"
	"shoal/gossip/join"
)

// SettingsPrefix is where a cell's settings are, by name.
const SettingsPrefix = "/shoal/settings/"

// Settings are what every host of a cell must have alike. A record has the value
// from the first start on that knew the setting; hosts that are told nothing take
// it from there.
type Settings struct{ Records claims.Records }

// All returns the settings the cell has, by name.
func (s Settings) All(ctx context.Context) (map[string]string, error) {
	found, err := s.Records.ListRecords(ctx, SettingsPrefix)
	if err != nil {
		return nil, fmt.Errorf("read the cell's settings: %w", err)
	}
	all := map[string]string{}
	for key, value := range found {
		all[strings.TrimPrefix(key, SettingsPrefix)] = string(value)
	}
	return all, nil
}

// Settle returns the cell's value of a setting. said is what this host was told,
// "" for nothing, and fallback what the cell gets that has no value yet. Where
// the cell has another than said, the error is a *join.Refusal; a host that is
// alone in its cell changes it instead.
func (s Settings) Settle(ctx context.Context, name, said, fallback string, alone bool) (string, error) {
	all, err := s.All(ctx)
	if err != nil {
		return "", err
	}
	has, known := all[name]
	switch {
	case !known:
		return s.first(ctx, name, said, fallback)
	case said == "" || said == has:
		return has, nil
	case !alone:
		return "", &join.Refusal{Code: join.OtherSetting, Setting: name, Has: has, Said: said}
	}
	changed, err := s.Records.ReplaceRecord(ctx, SettingsPrefix+name, []byte(has), []byte(said))
	if err == nil && !changed {
		err = errors.New("another host changed it at the same moment; start again")
	}
	if err != nil {
		return "", fmt.Errorf("change the cell's %s: %w", name, err)
	}
	return said, nil
}

// first writes a setting that the cell does not have yet.
func (s Settings) first(ctx context.Context, name, said, fallback string) (string, error) {
	value := said
	if value == "" {
		value = fallback
	}
	if _, err := s.Records.CreateRecord(ctx, SettingsPrefix+name, []byte(value)); err != nil {
		return "", fmt.Errorf("write the cell's %s: %w", name, err)
	}
	return value, nil
}
