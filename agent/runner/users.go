package runner

import (
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// userCacheMax bounds remembered users; one entry per image and user string.
const userCacheMax = 256

// userCache remembers what a user string means in an image: finding out
// takes a mount.
type userCache struct {
	mu    sync.Mutex
	known map[string]specs.User // guarded by mu
}

func (u *userCache) get(chain, user string) *specs.User {
	u.mu.Lock()
	defer u.mu.Unlock()
	if found, ok := u.known[chain+" "+user]; ok {
		return &found
	}
	return nil
}

func (u *userCache) put(chain, user string, is specs.User) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.known == nil || len(u.known) >= userCacheMax {
		u.known = map[string]specs.User{}
	}
	u.known[chain+" "+user] = is
}
