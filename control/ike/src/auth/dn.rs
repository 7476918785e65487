//! Distinguished names: strongSwan's notation (`C=CH, O=strongSwan, CN=moon`, in the order of the certificate), DER,
//! and comparison attribute by attribute (RFC 4945 §3.1.5, RFC 5280 §7.1).

use std::fmt;
use std::hash::{Hash, Hasher};

use der::asn1::{AnyRef, ObjectIdentifier};
use der::{Decode as _, Encode as _, Reader as _, SliceReader, Tag, Tagged as _};

/// A distinguished name. Equal and hashed by its DER; [`DistinguishedName::same`] compares as the RFCs want it.
#[derive(Clone)]
pub struct DistinguishedName {
    der: Vec<u8>,
    attributes: Vec<Attribute>,
}

#[derive(Clone, PartialEq)]
struct Attribute {
    /// Which of the RDNs it belongs to.
    rdn: usize,
    oid: ObjectIdentifier,
    value: Value,
}

#[derive(Clone, PartialEq)]
enum Value {
    /// Any string type, as text.
    Text(String),
    /// Anything else, DER.
    Other(Vec<u8>),
}

/// Names of attribute types, as strongSwan has them; the first of each number is printed.
const TYPES: &[(&str, &str)] = &[
    ("CN", "2.5.4.3"),
    ("S", "2.5.4.4"),
    ("SN", "2.5.4.5"),
    ("serialNumber", "2.5.4.5"),
    ("C", "2.5.4.6"),
    ("L", "2.5.4.7"),
    ("ST", "2.5.4.8"),
    ("street", "2.5.4.9"),
    ("O", "2.5.4.10"),
    ("OU", "2.5.4.11"),
    ("T", "2.5.4.12"),
    ("D", "2.5.4.13"),
    ("postalCode", "2.5.4.17"),
    ("N", "2.5.4.41"),
    ("G", "2.5.4.42"),
    ("I", "2.5.4.43"),
    ("ID", "2.5.4.45"),
    ("dnQualifier", "2.5.4.46"),
    ("E", "1.2.840.113549.1.9.1"),
    ("Email", "1.2.840.113549.1.9.1"),
    ("emailAddress", "1.2.840.113549.1.9.1"),
    ("UN", "1.2.840.113549.1.9.2"),
    ("unstructuredName", "1.2.840.113549.1.9.2"),
    ("DC", "0.9.2342.19200300.100.1.25"),
    ("UID", "0.9.2342.19200300.100.1.1"),
];

impl DistinguishedName {
    /// From a Name's DER; `None` if it is not one.
    pub fn from_der(der: &[u8]) -> Option<Self> {
        let mut attributes = Vec::new();
        let mut rdns = contents(der, Tag::Sequence)?;
        let mut rdn = 0;
        while !rdns.is_finished() {
            let mut set = contents(rdns.tlv_bytes().ok()?, Tag::Set)?;
            while !set.is_finished() {
                let mut pair = contents(set.tlv_bytes().ok()?, Tag::Sequence)?;
                let oid = ObjectIdentifier::decode(&mut pair).ok()?;
                let octets = pair.tlv_bytes().ok()?;
                let value = text_of(octets).map_or_else(|| Value::Other(octets.to_vec()), Value::Text);
                attributes.push(Attribute { rdn, oid, value });
                pair.finish().ok()?;
            }
            rdn += 1;
        }
        Some(Self { der: der.to_vec(), attributes })
    }

    /// From strongSwan's notation: `type=value`, separated by commas, or each begun by a slash. A backslash takes
    /// the next character as it is, double quotes a whole value. `Err` says what is wrong.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let mut der = Vec::new();
        let mut attributes = Vec::new();
        for (rdn, part) in split(text)?.into_iter().enumerate() {
            let (name, value) = part;
            let oid = oid_of(&name).ok_or("a part of the distinguished name has an unknown type")?;
            if value.is_empty() {
                return Err("a part of the distinguished name is empty");
            }
            let pair = [oid.to_der().unwrap_or_default(), tlv(string_tag(oid, &value), value.as_bytes())];
            der.extend(tlv(SET, &tlv(SEQUENCE, &pair.concat())));
            attributes.push(Attribute { rdn, oid, value: Value::Text(value) });
        }
        if attributes.is_empty() {
            return Err("the distinguished name is empty");
        }
        Ok(Self { der: tlv(SEQUENCE, &der), attributes })
    }

    /// DER of the Name.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Whether it has no attributes.
    pub fn is_empty(&self) -> bool {
        self.attributes.is_empty()
    }

    /// Whether both are the same name: strings without regard to their type, to case and to extra spaces.
    pub fn same(&self, other: &Self) -> bool {
        self.der == other.der || self.compare(other, false)
    }

    /// Whether `found` fits this pattern: as [`DistinguishedName::same`], but a value of `*` stands for any.
    pub fn matches(&self, found: &Self) -> bool {
        self.compare(found, true)
    }

    /// Whether a value is `*`.
    pub fn has_wildcards(&self) -> bool {
        self.attributes.iter().any(Attribute::is_wildcard)
    }

    /// Whether its first RDNs are those of `base` (RFC 5280 §7.1).
    pub fn is_within(&self, base: &Self) -> bool {
        self.attributes.len() >= base.attributes.len()
            && self.attributes.iter().zip(&base.attributes).all(|(own, base)| own.same(base))
    }

    /// The values of its e-mail addresses, which name constraints speak of too (RFC 5280 §4.2.1.10).
    pub(super) fn emails(&self) -> impl Iterator<Item = &str> {
        self.attributes.iter().filter_map(|attribute| match &attribute.value {
            Value::Text(text) if attribute.oid.to_string() == "1.2.840.113549.1.9.1" => Some(text.as_str()),
            _ => None,
        })
    }

    fn compare(&self, other: &Self, wildcards: bool) -> bool {
        self.attributes.len() == other.attributes.len()
            && self.attributes.iter().zip(&other.attributes).all(|(own, other)| {
                let any = wildcards && own.is_wildcard() && own.oid == other.oid && own.rdn == other.rdn;
                any || own.same(other)
            })
    }
}

impl Attribute {
    fn is_wildcard(&self) -> bool {
        matches!(&self.value, Value::Text(text) if text == "*")
    }

    fn same(&self, other: &Self) -> bool {
        let values = match (&self.value, &other.value) {
            (Value::Text(own), Value::Text(other)) => folded(own).eq(folded(other)),
            (own, other) => own == other,
        };
        self.rdn == other.rdn && self.oid == other.oid && values
    }
}

/// A string without its case, with one space where there are several, and none at its ends.
fn folded(text: &str) -> impl Iterator<Item = char> {
    let words = text.split_whitespace().enumerate();
    words.flat_map(|(index, word)| {
        let space = (index > 0).then_some(' ');
        space.into_iter().chain(word.chars().flat_map(char::to_lowercase))
    })
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;

/// What a value of that tag holds.
fn contents(der: &[u8], tag: Tag) -> Option<SliceReader<'_>> {
    let any = AnyRef::from_der(der).ok().filter(|any| any.tag() == tag)?;
    SliceReader::new(any.value()).ok()
}

/// The text of a string of any of X.520's types.
fn text_of(der: &[u8]) -> Option<String> {
    let any = AnyRef::from_der(der).ok()?;
    match any.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::NumericString | Tag::VisibleString => {
            std::str::from_utf8(any.value()).ok().map(str::to_owned)
        }
        // Latin-1, as everybody reads it.
        Tag::TeletexString => Some(any.value().iter().copied().map(char::from).collect()),
        Tag::BmpString => {
            let (pairs, rest) = any.value().as_chunks::<2>();
            let units: Vec<u16> = pairs.iter().copied().map(u16::from_be_bytes).collect();
            rest.is_empty().then(|| String::from_utf16(&units).ok())?
        }
        _ => None,
    }
}

fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let mut octets = vec![tag];
    let len = value.len().to_be_bytes();
    let significant: Vec<u8> = len.into_iter().skip_while(|octet| *octet == 0).collect();
    match significant.as_slice() {
        [] => octets.push(0),
        [short] if *short < 0x80 => octets.push(*short),
        // At most eight octets of length.
        long => {
            octets.push(0x80 | long.len() as u8);
            octets.extend(long);
        }
    }
    octets.extend(value);
    octets
}

fn oid_of(name: &str) -> Option<ObjectIdentifier> {
    let known = TYPES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, oid)| *oid);
    let dotted = known.or_else(|| name.contains('.').then_some(name))?;
    ObjectIdentifier::new(dotted).ok()
}

/// The string type that certificates have for an attribute: UTF8String where PrintableString does not do.
fn string_tag(oid: ObjectIdentifier, value: &str) -> u8 {
    let ia5 = ["1.2.840.113549.1.9.1", "0.9.2342.19200300.100.1.25"];
    let printable = |c: char| c.is_ascii_alphanumeric() || " '()+,-./:=?".contains(c);
    if ia5.contains(&oid.to_string().as_str()) && value.is_ascii() {
        IA5_STRING
    } else if value.chars().all(printable) {
        PRINTABLE_STRING
    } else {
        UTF8_STRING
    }
}

/// The parts of a notation, escapes resolved.
fn split(text: &str) -> Result<Vec<(String, String)>, &'static str> {
    let (text, separator) = match text.trim().strip_prefix('/') {
        Some(rest) => (rest, '/'),
        None => (text.trim(), ','),
    };
    let mut parts = Vec::new();
    let (mut name, mut value, mut in_value, mut quoted) = (String::new(), String::new(), false, false);
    let mut chars = text.chars();
    loop {
        match chars.next() {
            Some('\\') => value.push(chars.next().ok_or("nothing follows the last backslash")?),
            Some('"') if in_value => quoted = !quoted,
            Some('=') if !in_value => in_value = true,
            Some(c) if c == separator && !quoted => {
                finish(&mut parts, &mut name, &mut value, &mut in_value)?;
            }
            Some(c) if in_value => value.push(c),
            Some(c) => name.push(c),
            None if quoted => return Err("a double quote is not closed"),
            None => {
                finish(&mut parts, &mut name, &mut value, &mut in_value)?;
                return Ok(parts);
            }
        }
    }
}

fn finish(
    parts: &mut Vec<(String, String)>,
    name: &mut String,
    value: &mut String,
    in_value: &mut bool,
) -> Result<(), &'static str> {
    if !std::mem::replace(in_value, false) {
        return Err("a part of the distinguished name has no `=`");
    }
    parts.push((std::mem::take(name).trim().to_owned(), std::mem::take(value).trim().to_owned()));
    Ok(())
}

impl PartialEq for DistinguishedName {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl Eq for DistinguishedName {}

impl Hash for DistinguishedName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.der.hash(state);
    }
}

impl fmt::Display for DistinguishedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, attribute) in self.attributes.iter().enumerate() {
            let oid = attribute.oid.to_string();
            let name = TYPES.iter().find(|(_, known)| *known == oid).map_or(oid.as_str(), |(name, _)| *name);
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{name}=")?;
            match &attribute.value {
                Value::Text(text) => {
                    for c in text.chars() {
                        match c {
                            ',' | '"' | '\\' => write!(f, "\\{c}")?,
                            // What a peer calls itself goes to terminals and logs.
                            c if c.is_control() => write!(f, "{}", c.escape_debug())?,
                            c => write!(f, "{c}")?,
                        }
                    }
                }
                Value::Other(der) => write!(f, "#{}", data_encoding::HEXLOWER.encode(der))?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for DistinguishedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dn(text: &str) -> DistinguishedName {
        DistinguishedName::parse(text).unwrap()
    }

    #[test]
    fn a_notation_is_encoded_as_certificates_encode_it() {
        // `openssl asn1parse` of a certificate's subject made with -subj "/C=CH/O=Gö/CN=a".
        let expected = "3026310b3009060355040613024348310b3009060355040a0c02476f310a300806035504030c0161";
        let found =
            DistinguishedName::from_der(&data_encoding::HEXLOWER.decode(expected.as_bytes()).unwrap());
        assert!(found.is_some_and(|found| found.same(&dn("C=CH, O=Go, CN=a"))));
        let text = dn("C=CH, O=Gö, CN=moon.example.org, E=a@b.c");
        assert_eq!(DistinguishedName::from_der(text.der()).unwrap().to_string(), text.to_string());
    }

    #[test]
    fn case_and_spaces_do_not_tell_names_apart_but_order_and_types_do() {
        let name = dn("C=CH, O=Strong  Swan, CN=moon");
        assert!(name.same(&dn("c=ch,o=strong swan,cn=MOON")));
        assert!(name.same(&dn("/C=CH/O=strong swan/CN=moon")));
        for other in ["O=Strong Swan, C=CH, CN=moon", "C=CH, O=Strong Swan", "C=CH, O=StrongSwan, CN=moon"] {
            assert!(!name.same(&dn(other)), "{other}");
        }
        assert!(!dn("CN=a").same(&dn("OU=a")));
    }

    #[test]
    fn an_asterisk_stands_for_any_one_value() {
        assert!(dn("C=CH, O=Acme, CN=*").matches(&dn("C=CH, O=acme, CN=anybody")));
        assert!(!dn("C=CH, O=Acme, CN=*").matches(&dn("C=CH, O=acme, OU=x, CN=anybody")));
        assert!(!dn("CN=*").matches(&dn("OU=a")));
        assert!(!dn("CN=a").matches(&dn("CN=*")));
    }

    #[test]
    fn two_attributes_of_one_rdn_are_not_two_rdns() {
        let pair = |oid: &str, value: &str| {
            let oid = ObjectIdentifier::new(oid).unwrap().to_der().unwrap();
            tlv(SEQUENCE, &[oid, tlv(UTF8_STRING, value.as_bytes())].concat())
        };
        let both = [pair("2.5.4.3", "a"), pair("2.5.4.10", "b")].concat();
        let multi = DistinguishedName::from_der(&tlv(SEQUENCE, &tlv(SET, &both))).unwrap();
        assert_eq!(multi.to_string(), "CN=a, O=b");
        assert!(!multi.same(&dn("CN=a, O=b")));
    }

    #[test]
    fn escapes_and_quotes_keep_separators_in_values() {
        assert_eq!(dn("O=Acme\\, Inc., CN=x").to_string(), "O=Acme\\, Inc., CN=x");
        assert!(dn("O=\"Acme, Inc.\", CN=x").same(&dn("O=Acme\\, Inc., CN=x")));
    }

    #[test]
    fn what_is_no_name_is_told_why() {
        for (text, why) in [
            ("CN", "no `=`"),
            ("CN=", "empty"),
            ("XY=z", "unknown type"),
            ("CN=\"a", "not closed"),
            ("CN=a,", "no `=`"),
        ] {
            assert!(DistinguishedName::parse(text).unwrap_err().contains(why), "{text}");
        }
        assert_eq!(DistinguishedName::from_der(&[0x30, 0x02, 0x31]), None);
    }

    #[test]
    fn a_long_name_has_a_long_length() {
        let long = dn(&format!("CN={}", "x".repeat(300)));
        assert!(DistinguishedName::from_der(long.der()).unwrap().same(&long));
    }
}
