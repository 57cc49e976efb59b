package static

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Upstream's errors quote what is wrong, up to the whole file. Here they become
// errors that name the place and the rule alone.

var (
	// yamlWords are the parser's own words: those before anything that it quotes.
	yamlWords = regexp.MustCompile("yaml: (?:line [0-9]+: )?[^\"'`:]*")
	// jsonField is the field of a value that has not the type it should have.
	jsonField = regexp.MustCompile(`Go struct field (\S+) of type (\S+)`)
)

// notYAML says what the parser does, as far as these are its own words.
func notYAML(err error) error {
	if words := yamlWords.FindString(err.Error()); words != "" {
		return errors.New(strings.TrimSpace(words))
	}
	return errors.New("it cannot be read as YAML")
}

// notObject says why a file is no object of the API. An unknown version and kind
// are named: they are what has to be looked at, and no secrets.
func notObject(err error) error {
	switch {
	case runtime.IsMissingKind(err):
		return errors.New("Object 'Kind' is missing") //nolint:staticcheck // upstream's words
	case runtime.IsMissingVersion(err):
		return errors.New("Object 'apiVersion' is missing") //nolint:staticcheck // upstream's words
	case runtime.IsNotRegisteredError(err):
		return err
	}
	if words := jsonField.FindStringSubmatch(err.Error()); words != nil {
		return fmt.Errorf("the value of %s is no %s", words[1], words[2])
	}
	return errors.New("a field has a value of a wrong form; `kubectl create --dry-run=server --filename FILE` shows which")
}

// notValid joins what is wrong as upstream does, without the values.
func notValid(list field.ErrorList) error {
	var errs []error
	for _, e := range list {
		text := e.Field + ": " + e.Type.String()
		// Some details end with the value.
		if value := fmt.Sprint(e.BadValue); e.Detail != "" && (value == "" || !strings.Contains(e.Detail, value)) {
			text += ": " + e.Detail
		}
		errs = append(errs, errors.New(text))
	}
	return utilerrors.NewAggregate(errs) // one of each
}
