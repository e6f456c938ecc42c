//! JSON objects that are too large for memory, read as they come: the elements of their lists one
//! at a time.

use serde_json::value::RawValue;

/// Where in the object the next byte is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    /// Before it.
    Start,
    /// Before the name of a member, or, if it is the first, the end.
    Name { first: bool },
    /// Before the colon after a name.
    Colon,
    /// Before the value of a member, or an element; if it is the first element, or the end.
    Value { first: bool },
    /// In a name, a value or an element.
    Within,
    /// After a value or an element.
    After,
    /// After the object.
    End,
}

/// What the bytes that are being gathered are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Part {
    Name,
    /// The value of a member; none: nobody wants it.
    Member(Option<usize>),
    Element(usize),
}

/// Something that is there whole.
#[derive(Debug)]
pub enum Item {
    /// An element of the list with this index among those that were named.
    Element(usize, Box<RawValue>),
    /// An element of that list that is larger than allowed: it is left out.
    TooLarge(usize),
    /// The value of the member with this index among those that were named.
    Member(usize, Box<RawValue>),
}

/// Why something can't be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadLists {
    /// It is not JSON, or no object, or what should be a list is none.
    #[error("it is no JSON object with the lists that it should have")]
    Malformed,
    /// A member or its name is larger than allowed.
    #[error("a member of it is too large")]
    TooLarge,
    /// It breaks off.
    #[error("it breaks off")]
    CutOff,
}

/// Reads an object in pieces of any size. What it holds at a time is one element, or one member
/// that is no list.
#[derive(Debug)]
pub struct Lists {
    /// The names of the lists.
    wanted: &'static [&'static str],
    members: &'static [&'static str],
    /// The most bytes of an element.
    max_element: usize,
    /// The most bytes of a member or a name.
    max_member: usize,
    place: Place,
    part: Part,
    /// In which list.
    list: Option<usize>,
    /// Which lists have begun.
    begun: Vec<bool>,
    gathered: Vec<u8>,
    /// How deep in objects and arrays of the part.
    depth: usize,
    in_string: bool,
    is_escaped: bool,
    /// The part is larger than allowed, and no longer gathered.
    is_too_large: bool,
}

impl Lists {
    /// Reads the elements of `lists`, at most `max_element` bytes each, and `members`, at most
    /// `max_member` bytes each. Other members are passed over.
    #[must_use]
    pub fn new(
        (lists, max_element): (&'static [&'static str], usize),
        (members, max_member): (&'static [&'static str], usize),
    ) -> Self {
        Self {
            wanted: lists,
            members,
            max_element,
            max_member,
            place: Place::Start,
            part: Part::Name,
            list: None,
            begun: lists.iter().map(|_| false).collect(),
            gathered: Vec::new(),
            depth: 0,
            in_string: false,
            is_escaped: false,
            is_too_large: false,
        }
    }

    /// Reads on. What is whole now is added to `found`.
    ///
    /// # Errors
    /// [`BadLists`]. Nothing after it makes sense.
    pub fn read(&mut self, mut bytes: &[u8], found: &mut Vec<Item>) -> Result<(), BadLists> {
        while let Some((&byte, rest)) = bytes.split_first() {
            if self.place == Place::Within {
                let (taken, is_over) = self.scan(bytes);
                let (part, left) = bytes.split_at(taken);
                self.gather(part)?;
                if is_over {
                    self.finish(found)?;
                }
                bytes = left;
                continue;
            }
            if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                bytes = rest;
                continue;
            }
            let is_taken = self.step(byte)?;
            bytes = if is_taken { rest } else { bytes };
        }
        Ok(())
    }

    /// Says that nothing more comes.
    ///
    /// # Errors
    /// [`BadLists::CutOff`] if the object is not over, [`BadLists::Malformed`] if a list was not in it.
    pub fn end(&self) -> Result<(), BadLists> {
        match self.place {
            Place::End if self.begun.iter().all(|has_begun| *has_begun) => Ok(()),
            Place::End => Err(BadLists::Malformed),
            _ => Err(BadLists::CutOff),
        }
    }

    /// One byte between the parts. Whether it is done with: if not, it is the first of a part.
    fn step(&mut self, byte: u8) -> Result<bool, BadLists> {
        self.place = match (self.place, byte, self.list) {
            (Place::Start, b'{', _) => Place::Name { first: true },
            (Place::Name { .. }, b'"', _) => {
                self.begin(Part::Name);
                return Ok(false);
            }
            (Place::Name { first: true }, b'}', _) | (Place::After, b'}', None) => Place::End,
            (Place::Colon, b':', _) | (Place::After, b',', Some(_)) => {
                Place::Value { first: false }
            }
            (Place::Value { first: true } | Place::After, b']', Some(_)) => {
                self.list = None;
                Place::After
            }
            (Place::Value { .. }, _, Some(list)) => {
                self.begin(Part::Element(list));
                return Ok(false);
            }
            (Place::Value { .. }, b'[', None) => match self.part {
                // A list that is wanted was named.
                Part::Element(list) => {
                    self.list = Some(list);
                    if let Some(has_begun) = self.begun.get_mut(list) {
                        *has_begun = true;
                    }
                    Place::Value { first: true }
                }
                part => {
                    self.begin(part);
                    return Ok(false);
                }
            },
            (Place::Value { .. }, _, None) if !matches!(self.part, Part::Element(_)) => {
                self.begin(self.part);
                return Ok(false);
            }
            (Place::After, b',', None) => Place::Name { first: false },
            _ => return Err(BadLists::Malformed),
        };
        Ok(true)
    }

    fn begin(&mut self, part: Part) {
        self.part = part;
        self.place = Place::Within;
        (self.depth, self.in_string, self.is_escaped) = (0, false, false);
        self.is_too_large = false;
        self.gathered.clear();
    }

    /// How many of these bytes belong to the part, and whether it is over then.
    fn scan(&mut self, bytes: &[u8]) -> (usize, bool) {
        for (at, byte) in bytes.iter().enumerate() {
            if self.in_string {
                match byte {
                    _ if self.is_escaped => self.is_escaped = false,
                    b'\\' => self.is_escaped = true,
                    b'"' => {
                        self.in_string = false;
                        if self.depth == 0 {
                            return (at + 1, true);
                        }
                    }
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' | b',' | b' ' | b'\t' | b'\n' | b'\r' if self.depth == 0 => {
                    return (at, true);
                }
                b'}' | b']' => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        return (at + 1, true);
                    }
                }
                _ => {}
            }
        }
        (bytes.len(), false)
    }

    fn gather(&mut self, bytes: &[u8]) -> Result<(), BadLists> {
        let most = match self.part {
            Part::Element(_) => self.max_element,
            Part::Member(None) => return Ok(()),
            Part::Member(Some(_)) | Part::Name => self.max_member,
        };
        if self.is_too_large || self.gathered.len() + bytes.len() > most {
            if !matches!(self.part, Part::Element(_)) {
                return Err(BadLists::TooLarge);
            }
            self.is_too_large = true;
            self.gathered = Vec::new();
            return Ok(());
        }
        self.gathered.extend_from_slice(bytes);
        Ok(())
    }

    /// The part is over.
    fn finish(&mut self, found: &mut Vec<Item>) -> Result<(), BadLists> {
        self.place = Place::After;
        match self.part {
            Part::Name => {
                let name: String =
                    serde_json::from_slice(&self.gathered).map_err(|_| BadLists::Malformed)?;
                let list = self.wanted.iter().position(|list| *list == name);
                let member = self.members.iter().position(|member| *member == name);
                self.part = list.map_or(Part::Member(member), Part::Element);
                self.place = Place::Colon;
            }
            Part::Member(None) => {}
            Part::Element(list) if self.is_too_large => found.push(Item::TooLarge(list)),
            Part::Member(Some(member)) => found.push(Item::Member(member, self.value()?)),
            Part::Element(list) => found.push(Item::Element(list, self.value()?)),
        }
        Ok(())
    }

    fn value(&self) -> Result<Box<RawValue>, BadLists> {
        serde_json::from_slice(&self.gathered).map_err(|_| BadLists::Malformed)
    }
}

#[cfg(test)]
mod tests;
