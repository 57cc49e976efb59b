//go:build ignore

// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* One object holds every program, so that they share one set of maps. */
#include "destroy.h"
#include "overlay.h"
#include "wire.h"
#include "pod.h"
#include "policy.h"
#include "sock.h"
#include "uplink.h"

char LICENSE[] SEC("license") = "GPL";
