// Package storageclass names what persistent storage a cell has from the start:
// the class that claims without one get, the provisioner behind it, and the
// rights of that provisioner.
//
// What always holds: the default class is made once in the life of a cell. A
// record beside the objects remembers that, so a user who deletes the class,
// takes the default mark off it or changes it is not argued with. The role is
// the daemon's own and is brought up to date at every start, unless it carries
// `rbac.authorization.kubernetes.io/autoupdate: "false"`.
//
// The API server calls Ensure; the names are for whoever works with volumes.
package storageclass

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-helpers/auth/rbac/reconciliation"
	storageutil "k8s.io/kubernetes/pkg/apis/storage/util"
)

const (
	// Default is the class of claims that name none.
	Default = "shoal-local"
	// Provisioner makes volumes on the disk of the host where their first pod
	// runs (agent/localvolume).
	Provisioner = "local.shoal.dev"
	// User is who the provisioners of all hosts act as. No certificate and no
	// token is ever issued for it: only the daemon acts in its name.
	User = "system:shoal:volume-provisioner"
	// role and binding are what User may do, both by this name.
	role = "system:shoal:volume-provisioner"
	// made is the record that the default class was made.
	made = "/shoal/made/storageclass"
)

// Records keep what is said once in the life of a cell.
type Records interface {
	ListRecords(ctx context.Context, prefix string) (map[string][]byte, error)
	CreateRecord(ctx context.Context, key string, value []byte) (created bool, err error)
}

// Ensure makes the default class if it never was, and the provisioner's role.
func Ensure(ctx context.Context, client kubernetes.Interface, records Records) error {
	if err := ensureRole(client); err != nil {
		return fmt.Errorf("give the volume provisioner its rights: %w", err)
	}
	done, err := records.ListRecords(ctx, made)
	if err != nil {
		return fmt.Errorf("see whether the default storage class was made: %w", err)
	}
	if len(done) > 0 {
		return nil
	}
	_, err = client.StorageV1().StorageClasses().Create(ctx, defaultClass(), metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make the default storage class: %w", err)
	}
	if _, err := records.CreateRecord(ctx, made, []byte(Default)); err != nil {
		return fmt.Errorf("note that the default storage class was made: %w", err)
	}
	return nil
}

func defaultClass() *storagev1.StorageClass {
	reclaim, mode, expand := v1.PersistentVolumeReclaimDelete, storagev1.VolumeBindingWaitForFirstConsumer, true
	return &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{
			Name:        Default,
			Annotations: map[string]string{storageutil.IsDefaultStorageClassAnnotation: "true"},
		},
		Provisioner:          Provisioner,
		ReclaimPolicy:        &reclaim,
		VolumeBindingMode:    &mode,
		AllowVolumeExpansion: &expand,
	}
}

// rules are those of upstream's external provisioner and resizer, without
// secrets and snapshots.
func rules() []rbacv1.PolicyRule {
	core, storage := []string{""}, []string{"storage.k8s.io"}
	return []rbacv1.PolicyRule{
		{APIGroups: core, Resources: []string{"persistentvolumes"}, Verbs: []string{"get", "list", "watch", "create", "delete", "patch", "update"}},
		{APIGroups: core, Resources: []string{"persistentvolumeclaims"}, Verbs: []string{"get", "list", "watch", "patch", "update"}},
		{APIGroups: core, Resources: []string{"persistentvolumeclaims/status"}, Verbs: []string{"patch"}},
		{APIGroups: core, Resources: []string{"pods", "nodes"}, Verbs: []string{"get", "list"}},
		{APIGroups: core, Resources: []string{"events"}, Verbs: []string{"create", "patch", "update"}},
		{APIGroups: storage, Resources: []string{"storageclasses"}, Verbs: []string{"get", "list", "watch"}},
		{APIGroups: storage, Resources: []string{"csistoragecapacities"}, Verbs: []string{"get", "list", "create", "update", "patch", "delete"}},
	}
}

func ensureRole(client kubernetes.Interface) error {
	meta := metav1.ObjectMeta{
		Name:        role,
		Labels:      map[string]string{"kubernetes.io/bootstrapping": "rbac-defaults"},
		Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "true"},
	}
	roles := reconciliation.ReconcileRoleOptions{
		Role:    reconciliation.ClusterRoleRuleOwner{ClusterRole: &rbacv1.ClusterRole{ObjectMeta: meta, Rules: rules()}},
		Client:  reconciliation.ClusterRoleModifier{Client: client.RbacV1().ClusterRoles()},
		Confirm: true, RemoveExtraPermissions: true,
	}
	if _, err := roles.Run(); err != nil {
		return err
	}
	bindings := reconciliation.ReconcileRoleBindingOptions{
		RoleBinding: reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: &rbacv1.ClusterRoleBinding{
			ObjectMeta: meta,
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: User}},
		}},
		Client:  reconciliation.ClusterRoleBindingClientAdapter{Client: client.RbacV1().ClusterRoleBindings()},
		Confirm: true,
	}
	_, err := bindings.Run()
	return err
}
