package store

// mergeFields merges two live records of one object field by field.
func mergeFields(_ FieldMerger, _ string, a, b *Record) (Record, error) {
	kept, _ := Merge(*a, *b)
	return kept, nil
}
