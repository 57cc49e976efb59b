package loadbalancer

import (
	"context"
	_ "embed"
	"fmt"
	"strconv"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsclient "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

//go:embed addresspool.yaml
var manifest []byte

// schemaVersion is the annotation with the number of the manifest.
const schemaVersion = "shoal.dev/schema"

// Ensure makes the API server know AddressPools, in this version's form or a
// newer one that another peer brought.
func Ensure(ctx context.Context, client apiextensionsclient.Interface) error {
	var want apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(manifest, &want); err != nil {
		return fmt.Errorf("read the definition of AddressPool: %w", err)
	}
	definitions := client.ApiextensionsV1().CustomResourceDefinitions()
	have, err := definitions.Get(ctx, want.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = definitions.Create(ctx, &want, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil // another peer was faster
		}
		return wrap("make the definition of AddressPool", err)
	}
	if err != nil {
		return wrap("read the definition of AddressPool", err)
	}
	if numberOf(have) >= numberOf(&want) {
		return nil
	}
	have.Spec = want.Spec
	if have.Annotations == nil {
		have.Annotations = map[string]string{}
	}
	have.Annotations[schemaVersion] = want.Annotations[schemaVersion]
	_, err = definitions.Update(ctx, have, metav1.UpdateOptions{})
	return wrap("bring the definition of AddressPool up to date", err)
}

func numberOf(d *apiextensionsv1.CustomResourceDefinition) int {
	n, err := strconv.Atoi(d.Annotations[schemaVersion])
	if err != nil {
		return 0
	}
	return n
}

func wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}
