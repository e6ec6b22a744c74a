//! Who the client is: a token that goes with each call and stream (spec A-2).

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use bramah_wire::limits::MAX_TOKEN_BYTES;
use tonic::Request;
use tonic::metadata::MetadataValue;

/// Where the token comes from.
#[derive(Clone, Default)]
pub(crate) enum Token {
    /// Nobody in particular.
    #[default]
    Anonymous,
    Given(Arc<str>),
    /// Read for each connection, so that it can be renewed.
    File(Arc<PathBuf>),
}

impl fmt::Debug for Token {
    /// Without the token itself.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => formatter.write_str("Anonymous"),
            Self::Given(_) => formatter.write_str("Given(..)"),
            Self::File(path) => formatter.debug_tuple("File").field(path).finish(),
        }
    }
}

impl Token {
    /// `message` with the token.
    pub(crate) async fn sign<T>(&self, message: T) -> Result<Request<T>, String> {
        let mut request = Request::new(message);
        let token = match self {
            Self::Anonymous => return Ok(request),
            Self::Given(token) => token.to_string(),
            Self::File(path) => {
                let read = tokio::fs::read_to_string(path.as_ref()).await;
                read.map_err(|error| format!("can't read the token in {}: {error}", path.display()))?
            }
        };
        let token = token.trim();
        if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
            return Err(format!(
                "a token has 1 to {MAX_TOKEN_BYTES} bytes, and this one has {}",
                token.len()
            ));
        }
        let value = MetadataValue::try_from(format!("Bearer {token}"));
        let mut value =
            value.map_err(|_| "a token is of printable ASCII characters, and this one is not".to_owned())?;
        value.set_sensitive(true);
        request.metadata_mut().insert("authorization", value);
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_shown() {
        assert_eq!(format!("{:?}", Token::Given("secret".into())), "Given(..)");
    }
}
