package storage

import (
	"testing"
	"time"

	storagetesting "k8s.io/apiserver/pkg/storage/testing"
)

// upstreamSuite runs every test that k8s.io/apiserver has for storages.
var upstreamSuite = map[string]func(*testing.T){
	"RunTestCreate": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestCreate(s.ctx, t, s, s.checkStored)
	},
	"RunTestCreateWithTTL": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestCreateWithTTL(s.ctx, t, s)
	},
	"RunTestCreateWithKeyExist": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestCreateWithKeyExist(s.ctx, t, s)
	},
	"RunTestGet": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestGet(s.ctx, t, s)
	},
	"RunTestUnconditionalDelete": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestUnconditionalDelete(s.ctx, t, s)
	},
	"RunTestConditionalDelete": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestConditionalDelete(s.ctx, t, s)
	},
	"RunTestDeleteWithSuggestion": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestDeleteWithSuggestion(s.ctx, t, s)
	},
	"RunTestDeleteWithSuggestionAndConflict": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestDeleteWithSuggestionAndConflict(s.ctx, t, s)
	},
	"RunTestDeleteWithConflict": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestDeleteWithConflict(s.ctx, t, s)
	},
	"RunTestDeleteWithSuggestionOfDeletedObject": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestDeleteWithSuggestionOfDeletedObject(s.ctx, t, s)
	},
	"RunTestValidateDeletionWithSuggestion": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestValidateDeletionWithSuggestion(s.ctx, t, s)
	},
	"RunTestValidateDeletionWithOnlySuggestionValid": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestValidateDeletionWithOnlySuggestionValid(s.ctx, t, s)
	},
	"RunTestPreconditionalDeleteWithSuggestion": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestPreconditionalDeleteWithSuggestion(s.ctx, t, s)
	},
	"RunTestPreconditionalDeleteWithOnlySuggestionPass": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestPreconditionalDeleteWithOnlySuggestionPass(s.ctx, t, s)
	},
	"RunTestList": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestList(s.ctx, t, s, s.compact, false, nil)
	},
	"RunTestConsistentList": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestConsistentList(s.ctx, t, s, s.increaseVersion, false, true, false)
	},
	"RunTestGetListNonRecursive": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestGetListNonRecursive(s.ctx, t, s.increaseVersion, s)
	},
	"RunTestGetListRecursivePrefix": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestGetListRecursivePrefix(s.ctx, t, s)
	},
	"RunTestListInconsistentContinuation": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestListInconsistentContinuation(s.ctx, t, s, s.compact)
	},
	"RunTestListResourceVersionMatch": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestListResourceVersionMatch(s.ctx, t, s)
	},
	"RunTestGuaranteedUpdate": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestGuaranteedUpdate(s.ctx, t, s, s.checkStored)
	},
	"RunTestGuaranteedUpdateWithTTL": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestGuaranteedUpdateWithTTL(s.ctx, t, s)
	},
	"RunTestGuaranteedUpdateChecksStoredData": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestGuaranteedUpdateChecksStoredData(s.ctx, t, s)
	},
	"RunTestGuaranteedUpdateWithConflict": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestGuaranteedUpdateWithConflict(s.ctx, t, s)
	},
	"RunTestGuaranteedUpdateWithSuggestionAndConflict": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestGuaranteedUpdateWithSuggestionAndConflict(s.ctx, t, s)
	},
	"RunTestTransformationFailure": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestTransformationFailure(s.ctx, t, s)
	},
	"RunTestListPaging": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestListPaging(s.ctx, t, s)
	},
	"RunTestNamespaceScopedList": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestNamespaceScopedList(s.ctx, t, s)
	},
	"RunTestCompactRevision": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestCompactRevision(s.ctx, t, s, s.increaseVersion, s.compact)
	},
	"RunTestKeySchema": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestKeySchema(s.ctx, t, s)
	},
	"RunTestWatch": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestWatch(s.ctx, t, s)
	},
	"RunTestWatchFromZero": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestWatchFromZero(s.ctx, t, s, s.compact)
	},
	"RunTestDeleteTriggerWatch": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestDeleteTriggerWatch(s.ctx, t, s)
	},
	"RunTestWatchFromNonZero": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestWatchFromNonZero(s.ctx, t, s)
	},
	"RunTestDelayedWatchDelivery": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestDelayedWatchDelivery(s.ctx, t, s)
	},
	"RunTestWatchError": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestWatchError(s.ctx, t, s)
	},
	"RunTestWatchContextCancel": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestWatchContextCancel(s.ctx, t, s)
	},
	"RunTestWatcherTimeout": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestWatcherTimeout(s.ctx, t, s)
	},
	"RunTestWatchDeleteEventObjectHaveLatestRV": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestWatchDeleteEventObjectHaveLatestRV(s.ctx, t, s)
	},
	"RunTestWatchInitializationSignal": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestWatchInitializationSignal(s.ctx, t, s)
	},
	"RunOptionalTestProgressNotify": func(t *testing.T) {
		s := newSetup(t)
		s.progressEvery = 100 * time.Millisecond
		storagetesting.RunOptionalTestProgressNotify(s.ctx, t, s, s.increaseVersion)
	},
	"RunTestClusterScopedWatch": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestClusterScopedWatch(s.ctx, t, s)
	},
	"RunTestNamespaceScopedWatch": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestNamespaceScopedWatch(s.ctx, t, s)
	},
	"RunTestWatchDispatchBookmarkEvents": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestWatchDispatchBookmarkEvents(s.ctx, t, s, true)
	},
	"RunTestOptionalWatchBookmarksWithCorrectResourceVersion": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunTestOptionalWatchBookmarksWithCorrectResourceVersion(s.ctx, t, s)
	},
	"RunSendInitialEventsBackwardCompatibility": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunSendInitialEventsBackwardCompatibility(s.ctx, t, s)
	},
	"RunWatchSemantics": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunWatchSemantics(s.ctx, t, s)
	},
	"RunWatchSemanticInitialEventsExtended": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunWatchSemanticInitialEventsExtended(s.ctx, t, s)
	},
	"RunWatchListMatchSingle": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunWatchListMatchSingle(s.ctx, t, s)
	},
	"RunWatchErrorIsBlockingFurtherEvents": func(t *testing.T) {
		s := newSetup(t)
		storagetesting.RunWatchErrorIsBlockingFurtherEvents(s.ctx, t, s)
	},
}

func TestUpstreamSuite(t *testing.T) {
	for name, run := range upstreamSuite {
		t.Run(name, run)
	}
}
