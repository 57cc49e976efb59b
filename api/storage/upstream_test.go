package storage

import (
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	storagetesting "k8s.io/apiserver/pkg/storage/testing"
)

// upstreamSuite runs every test that k8s.io/apiserver has for storages.
var upstreamSuite = map[string]func(*testing.T, setupFunc){
	"RunTestCreate": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestCreate(s.ctx, t, s, s.checkStored)
	},
	"RunTestCreateWithTTL": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestCreateWithTTL(s.ctx, t, s)
	},
	"RunTestCreateWithKeyExist": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestCreateWithKeyExist(s.ctx, t, s)
	},
	"RunTestGet": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestGet(s.ctx, t, s)
	},
	"RunTestUnconditionalDelete": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestUnconditionalDelete(s.ctx, t, s)
	},
	"RunTestConditionalDelete": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestConditionalDelete(s.ctx, t, s)
	},
	"RunTestDeleteWithSuggestion": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestDeleteWithSuggestion(s.ctx, t, s)
	},
	"RunTestDeleteWithSuggestionAndConflict": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestDeleteWithSuggestionAndConflict(s.ctx, t, s)
	},
	"RunTestDeleteWithConflict": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestDeleteWithConflict(s.ctx, t, s)
	},
	"RunTestDeleteWithSuggestionOfDeletedObject": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestDeleteWithSuggestionOfDeletedObject(s.ctx, t, s)
	},
	"RunTestValidateDeletionWithSuggestion": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestValidateDeletionWithSuggestion(s.ctx, t, s)
	},
	"RunTestValidateDeletionWithOnlySuggestionValid": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestValidateDeletionWithOnlySuggestionValid(s.ctx, t, s)
	},
	"RunTestPreconditionalDeleteWithSuggestion": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestPreconditionalDeleteWithSuggestion(s.ctx, t, s)
	},
	"RunTestPreconditionalDeleteWithOnlySuggestionPass": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestPreconditionalDeleteWithOnlySuggestionPass(s.ctx, t, s)
	},
	"RunTestList": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestList(s.ctx, t, s, s.compact, false, nil)
	},
	"RunTestConsistentList": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestConsistentList(s.ctx, t, s, s.increaseVersion, false, true, false)
	},
	"RunTestGetListNonRecursive": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestGetListNonRecursive(s.ctx, t, s.increaseVersion, s)
	},
	"RunTestGetListRecursivePrefix": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestGetListRecursivePrefix(s.ctx, t, s)
	},
	"RunTestListInconsistentContinuation": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestListInconsistentContinuation(s.ctx, t, s, s.compact)
	},
	"RunTestListResourceVersionMatch": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestListResourceVersionMatch(s.ctx, t, s)
	},
	"RunTestGuaranteedUpdate": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestGuaranteedUpdate(s.ctx, t, s, s.checkStored)
	},
	"RunTestGuaranteedUpdateWithTTL": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestGuaranteedUpdateWithTTL(s.ctx, t, s)
	},
	"RunTestGuaranteedUpdateChecksStoredData": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestGuaranteedUpdateChecksStoredData(s.ctx, t, s)
	},
	"RunTestGuaranteedUpdateWithConflict": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestGuaranteedUpdateWithConflict(s.ctx, t, s)
	},
	"RunTestGuaranteedUpdateWithSuggestionAndConflict": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestGuaranteedUpdateWithSuggestionAndConflict(s.ctx, t, s)
	},
	"RunTestTransformationFailure": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestTransformationFailure(s.ctx, t, s)
	},
	"RunTestDeleteWithConflictAndMissingExpectedTransformOrDecodeError": func(t *testing.T, newSetup setupFunc) {
		allowUnsafeDeletion(t, true)
		codec := &failingCodec{Codec: testCodec()}
		s := newSetup(t, withCodec(codec))
		storagetesting.RunTestDeleteWithConflictAndMissingExpectedTransformOrDecodeError(s.ctx, t, s, codec.fail.Store)
	},
	"RunTestDeleteExpectedTransformOrDecodeError": func(t *testing.T, newSetup setupFunc) {
		allowUnsafeDeletion(t, true)
		t.Run("transform", func(t *testing.T) {
			transformer := &failingTransformer{Transformer: testTransformer()}
			s := newSetup(t, withTransformer(transformer))
			storagetesting.RunTestDeleteExpectedTransformOrDecodeError(s.ctx, t, s, transformer.fail.Store)
		})
		t.Run("decode", func(t *testing.T) {
			codec := &failingCodec{Codec: testCodec()}
			s := newSetup(t, withCodec(codec))
			storagetesting.RunTestDeleteExpectedTransformOrDecodeError(s.ctx, t, s, codec.fail.Store)
		})
	},
	"RunTestDeleteWithSuggestionAndMissingExpectedTransformOrDecodeError": func(t *testing.T, newSetup setupFunc) {
		allowUnsafeDeletion(t, true)
		s := newSetup(t)
		storagetesting.RunTestDeleteWithSuggestionAndMissingExpectedTransformOrDecodeError(s.ctx, t, s)
	},
	"RunTestGetListWithErrorAggregation": func(t *testing.T, newSetup setupFunc) {
		allowUnsafeDeletion(t, true)
		s := newSetup(t)
		storagetesting.RunTestGetListWithErrorAggregation(s.ctx, t, s, errBitsFlipped)
	},
	"RunTestGetListWithoutErrorAggregation": func(t *testing.T, newSetup setupFunc) {
		allowUnsafeDeletion(t, false)
		s := newSetup(t)
		storagetesting.RunTestGetListWithoutErrorAggregation(s.ctx, t, s, errBitsFlipped)
	},
	"RunTestWatchWithUnsafeDelete": func(t *testing.T, newSetup setupFunc) {
		allowUnsafeDeletion(t, true)
		s := newSetup(t)
		storagetesting.RunTestWatchWithUnsafeDelete(s.ctx, t, s, errBitsFlipped)
	},
	"RunTestListContinuation": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestListContinuation(s.ctx, t, s, s.countReads())
	},
	"RunTestListPaginationRareObject": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestListPaginationRareObject(s.ctx, t, s, s.countReads())
	},
	"RunTestListContinuationWithFilter": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestListContinuationWithFilter(s.ctx, t, s, s.countReads())
	},
	"RunTestStats": func(t *testing.T, newSetup setupFunc) {
		for _, sized := range []bool{true, false} {
			t.Run(fmt.Sprintf("sized=%v", sized), func(t *testing.T) {
				s := newSetup(t)
				if sized {
					noKeys := func(context.Context) ([]string, error) { return nil, nil }
					if err := s.EnableResourceSizeEstimation(noKeys); err != nil {
						t.Fatal(err)
					}
				}
				storagetesting.RunTestStats(s.ctx, t, s, s.codec, s.transformer, sized)
			})
		}
	},
	"RunTestListPaging": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestListPaging(s.ctx, t, s)
	},
	"RunTestNamespaceScopedList": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestNamespaceScopedList(s.ctx, t, s)
	},
	"RunTestCompactRevision": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestCompactRevision(s.ctx, t, s, s.increaseVersion, s.compact)
	},
	"RunTestKeySchema": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestKeySchema(s.ctx, t, s)
	},
	"RunTestWatch": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestWatch(s.ctx, t, s)
	},
	"RunTestWatchFromZero": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestWatchFromZero(s.ctx, t, s, s.compact)
	},
	"RunTestDeleteTriggerWatch": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestDeleteTriggerWatch(s.ctx, t, s)
	},
	"RunTestWatchFromNonZero": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestWatchFromNonZero(s.ctx, t, s)
	},
	"RunTestDelayedWatchDelivery": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestDelayedWatchDelivery(s.ctx, t, s)
	},
	"RunTestWatchError": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestWatchError(s.ctx, t, s)
	},
	"RunTestWatchContextCancel": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestWatchContextCancel(s.ctx, t, s)
	},
	"RunTestWatcherTimeout": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestWatcherTimeout(s.ctx, t, s)
	},
	"RunTestWatchDeleteEventObjectHaveLatestRV": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestWatchDeleteEventObjectHaveLatestRV(s.ctx, t, s)
	},
	"RunTestWatchInitializationSignal": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestWatchInitializationSignal(s.ctx, t, s)
	},
	"RunOptionalTestProgressNotify": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		s.progressEvery = 100 * time.Millisecond
		storagetesting.RunOptionalTestProgressNotify(s.ctx, t, s, s.increaseVersion)
	},
	"RunTestClusterScopedWatch": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestClusterScopedWatch(s.ctx, t, s)
	},
	"RunTestNamespaceScopedWatch": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestNamespaceScopedWatch(s.ctx, t, s)
	},
	"RunTestWatchDispatchBookmarkEvents": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestWatchDispatchBookmarkEvents(s.ctx, t, s, true)
	},
	"RunTestOptionalWatchBookmarksWithCorrectResourceVersion": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunTestOptionalWatchBookmarksWithCorrectResourceVersion(s.ctx, t, s)
	},
	"RunSendInitialEventsBackwardCompatibility": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunSendInitialEventsBackwardCompatibility(s.ctx, t, s)
	},
	"RunWatchSemantics": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunWatchSemantics(s.ctx, t, s)
	},
	"RunWatchSemanticInitialEventsExtended": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunWatchSemanticInitialEventsExtended(s.ctx, t, s)
	},
	"RunWatchListMatchSingle": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunWatchListMatchSingle(s.ctx, t, s)
	},
	"RunWatchErrorIsBlockingFurtherEvents": func(t *testing.T, newSetup setupFunc) {
		s := newSetup(t)
		storagetesting.RunWatchErrorIsBlockingFurtherEvents(s.ctx, t, s)
	},
}

// notApplicable names what upstream has for storages that is not run here.
var notApplicable = map[string]string{}

// needsCounting names the tests that reckon with a version plus one being the
// next, which holds of etcd's but not of a clock's.
var needsCounting = map[string]string{
	"RunTestConsistentList":  "expects a list at the version after the last write",
	"RunTestList":            "lists at the version after the last write",
	"RunWatchSemantics":      "watches from version 1 as the first there is",
	"RunTestCompactRevision": "compacts at the version after the last write",
}

// TestUpstreamSuite runs the suite with versions that count, as etcd's do.
func TestUpstreamSuite(t *testing.T) {
	for name, run := range upstreamSuite {
		t.Run(name, func(t *testing.T) { run(t, newSetup) })
	}
}

// TestUpstreamSuiteWithClockVersions runs it with versions as peers issue them.
func TestUpstreamSuiteWithClockVersions(t *testing.T) {
	if testing.Short() {
		t.Skip("the suite ran already, with versions that count")
	}
	withClock := func(t testing.TB, opts ...setupOption) *setup {
		opts = append(opts, withClockVersions())
		return newSetup(t, opts...)
	}
	for name, run := range upstreamSuite {
		if _, skip := needsCounting[name]; skip {
			continue
		}
		t.Run(name, func(t *testing.T) { run(t, withClock) })
	}
}

// TestUpstreamSuiteIsComplete fails when upstream gains a test that is neither
// run here nor named as not applicable.
func TestUpstreamSuiteIsComplete(t *testing.T) {
	upstream := upstreamTests(t)
	if len(upstream) < 50 {
		t.Fatalf("found %d tests upstream, expected more than 50: has the suite moved?", len(upstream))
	}
	for name := range upstream {
		_, run := upstreamSuite[name]
		_, skipped := notApplicable[name]
		if run == skipped {
			t.Errorf("%s: run %v, not applicable %v; want exactly one", name, run, skipped)
		}
	}
	for name := range notApplicable {
		if !upstream[name] {
			t.Errorf("%s is listed as not applicable but does not exist upstream", name)
		}
	}
}

// upstreamTests parses the suite's source for its entry points.
func upstreamTests(t *testing.T) map[string]bool {
	dir, err := exec.Command("go", "list", "-f", "{{.Dir}}", "k8s.io/apiserver/pkg/storage/testing").Output()
	if err != nil {
		t.Fatalf("find upstream suite: %v", err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range parsed.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && isEntryPoint(f.Name.Name) {
				names[f.Name.Name] = true
			}
		}
	}
	return names
}

func isEntryPoint(name string) bool {
	return strings.HasPrefix(name, "Run") && !strings.HasPrefix(name, "RunBenchmark")
}
