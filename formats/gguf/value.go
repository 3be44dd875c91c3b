package gguf

import "fmt"

// checkValue reports whether GGUF has a type for a value.
func checkValue(value any, depth int) error {
	if _, ok := typeOfValue(value); !ok {
		return fmt.Errorf("GGUF has no type for %T", value)
	}
	list, ok := value.([]any)
	if !ok {
		return nil
	}
	if depth == maxDepth {
		return fmt.Errorf("arrays are nested more than %d deep", maxDepth)
	}
	for _, v := range list {
		if _, ok := elementType(v); !ok {
			return fmt.Errorf("an array of arrays cannot hold %T", v)
		}
		if err := checkValue(v, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// typeOfValue is the type number of a value.
func typeOfValue(value any) (valueType, bool) {
	switch value.(type) {
	case uint8:
		return typeUint8, true
	case int8:
		return typeInt8, true
	case uint16:
		return typeUint16, true
	case int16:
		return typeInt16, true
	case uint32:
		return typeUint32, true
	case int32:
		return typeInt32, true
	case float32:
		return typeFloat32, true
	case bool:
		return typeBool, true
	case string:
		return typeString, true
	case uint64:
		return typeUint64, true
	case int64:
		return typeInt64, true
	case float64:
		return typeFloat64, true
	}
	_, ok := elementType(value)
	return typeArray, ok
}

// elementType is the type number of an array's elements.
func elementType(value any) (valueType, bool) {
	switch value.(type) {
	case []uint8:
		return typeUint8, true
	case []int8:
		return typeInt8, true
	case []uint16:
		return typeUint16, true
	case []int16:
		return typeInt16, true
	case []uint32:
		return typeUint32, true
	case []int32:
		return typeInt32, true
	case []float32:
		return typeFloat32, true
	case []bool:
		return typeBool, true
	case []string:
		return typeString, true
	case []any:
		return typeArray, true
	case []uint64:
		return typeUint64, true
	case []int64:
		return typeInt64, true
	case []float64:
		return typeFloat64, true
	}
	return 0, false
}
