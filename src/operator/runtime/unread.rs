//! What of an object nobody here reads is skipped while it is parsed: who wrote which field, the pods that a Job makes, what its containers
//! are made of. That is most of an object, and to make values of it would be most of what an operator computes.

use std::fmt;

use serde::Deserialize;
use serde::de::value::SeqAccessDeserializer;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Fields to skip, by their names.
type Fields = &'static [(&'static str, Skip)];

/// What of a field is skipped.
enum Skip {
    /// All of it.
    Whole,
    /// These fields of it.
    Within(Fields),
}
use Skip::{Whole, Within};

/// Of Jobs, pods, nodes and `BakeJob`s alike: none has a field of another's name here that is read.
const UNREAD: Fields = &[
    (
        "metadata",
        Within(&[
            ("managedFields", Whole),
            // Where `kubectl apply` keeps a second copy of the object.
            ("annotations", Within(&[("kubectl.kubernetes.io/last-applied-configuration", Whole)])),
        ]),
    ),
    (
        "spec",
        Within(&[
            ("template", Whole),
            ("podFailurePolicy", Whole),
            ("containers", Whole),
            ("initContainers", Whole),
            ("volumes", Whole),
            ("tolerations", Whole),
            ("affinity", Whole),
        ]),
    ),
    ("status", Within(&[("images", Whole)])),
];

/// Reads an object without what nobody reads of it.
pub(super) fn read<'de, D: Deserializer<'de>>(object: D) -> Result<Value, D::Error> {
    Without(UNREAD).deserialize(object)
}

struct Without(Fields);

impl<'de> DeserializeSeed<'de> for Without {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<Value, D::Error> {
        value.deserialize_any(self)
    }
}

/// What is no object is kept as it is: whoever reads it then says what is wrong with it.
impl<'de> Visitor<'de> for Without {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            match self.0.iter().find(|(field, _)| *field == name) {
                None => drop(object.insert(name, fields.next_value()?)),
                Some((_, Whole)) => drop(fields.next_value::<IgnoredAny>()?),
                Some((_, Within(inner))) => drop(object.insert(name, fields.next_value_seed(Without(inner))?)),
            }
        }
        Ok(Value::Object(object))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Value, A::Error> {
        Value::deserialize(SeqAccessDeserializer::new(items))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn without(object: &Value) -> Value {
        read(&mut serde_json::Deserializer::from_str(&object.to_string())).unwrap()
    }

    #[test]
    fn only_what_is_named_is_left_out() {
        let job = json!({
            "metadata": {"name": "j", "managedFields": [{"manager": "m"}], "annotations": {"a": "b", "kubectl.kubernetes.io/last-applied-configuration": "{}"}},
            "spec": {"suspend": true, "template": {"spec": {}}, "worker": {"volumes": [1]}},
            "status": {"failed": 1, "conditions": [{"type": "Complete"}], "share": 0.5, "images": []},
        });
        let read = json!({
            "metadata": {"name": "j", "annotations": {"a": "b"}},
            "spec": {"suspend": true, "worker": {"volumes": [1]}},
            "status": {"failed": 1, "conditions": [{"type": "Complete"}], "share": 0.5},
        });
        assert_eq!(without(&job), read);
    }

    #[test]
    fn what_is_no_object_is_kept_as_it_is() {
        for odd in [json!(null), json!("text"), json!(-5), json!(7), json!(0.5), json!(true), json!([{"a": 1}, 2])] {
            let object = json!({"spec": odd, "metadata": {"annotations": odd}});
            assert_eq!(without(&object), object);
        }
    }
}
